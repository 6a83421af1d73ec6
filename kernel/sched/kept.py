"""Contexts kept when requests end, so that the next one of the same task computes only what is new in it.

A task has many, one for each conversation; a request goes on with the one that has most in common with it. What is
kept is how a context came about (its tokens and turns.py's turns), and its KV as long as there is memory for it:
whether the KV was still there changes no bit, for without it the same rows are fed again.

Who calls it: scheduler.py. What must hold: a task's contexts serve that task alone; which turns a request goes on with
is a function of what its task asked before, never of memory or of other tasks; KV is given up as soon as it is wanted.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace

from kernel.engine.base import CHUNK_TOKENS
from kernel.limits import MAX_KEPT_CONTEXTS, MAX_KEPT_TOKENS
from kernel.objects import KVSnapshot, Request
from kernel.sched.turns import Turns, common, shared_turns, usable
from kernel.states import RequestState, TaskState

_KEEPING = (RequestState.FINISHED_STOP, RequestState.FINISHED_LENGTH, RequestState.FINISHED_ABORTED)


@dataclass(slots=True, eq=False)
class Context:
    """One of them."""

    tokens: array[int]  # that were fed
    turns: Turns
    is_coming: bool = False  # its KV is being saved
    snapshot: KVSnapshot | None = None
    taker: Request | None = None  # who waits for that save
    is_given_up: bool = False  # nobody else may have it


class KeptContexts:
    """Those of all tasks. `release` gives a segment back."""

    def __init__(self, release: Callable[[int], None]) -> None:
        self._release = release
        self._by_task: dict[int, list[Context]] = {}  # by pid; least lately used first
        self._held: dict[Context, None] = {}  # those that have their KV; least lately used first
        self._coming: dict[Request, Context] = {}  # by the request that leaves them

    def __len__(self) -> int:
        """How many have their KV."""
        return len(self._held)

    @staticmethod
    def is_worth(request: Request) -> bool:
        """Whether what a finished request has fed should outlive it."""
        asked = request.options.keep
        return (
            (bool(request.chat) if asked is None else asked)
            and request.state in _KEEPING
            and request.kv_tokens >= CHUNK_TOKENS
            and request.task.state is not TaskState.ZOMBIE
        )

    def put(self, request: Request) -> bool:
        """Keep a finished request's context; say whether its KV is still to be saved from its slot."""
        turns = request.turns
        if request.kv_tokens > request.prompt_tokens:
            turns += ((request.prompt_tokens, request.kv_tokens),)
        made = Context(array("I", request.tokens[: request.kv_tokens]), turns)
        several = self._by_task.setdefault(request.task.pid, [])
        for old in [old for old in several if _goes_on(made, old)]:
            self._give_up(old)
            several.remove(old)
        several.append(made)
        while len(several) > MAX_KEPT_CONTEXTS or sum(len(one.tokens) for one in several) > MAX_KEPT_TOKENS:
            self._give_up(several.pop(0))
        if request.slot is not None:
            made.is_coming = True
            self._coming[request] = made
        elif request.snapshot is not None:
            self._hold(made, request.snapshot)
            request.snapshot = None
        return made.is_coming

    def lend(self, request: Request) -> bool:
        """Give a new request what it can go on with. False: the KV of that is being saved, and it should wait."""
        tokens = array("I", request.tokens)
        several = self._by_task.get(request.task.pid, ())
        shared = [(one, min(common(one.tokens, tokens), len(tokens) - 1)) for one in several]
        for one, size in shared:
            turns = shared_turns(one.turns, size)
            if _end(turns) >= _end(request.turns):
                request.turns = turns
        best, keep = None, 0
        for one, size in shared:
            has_kv = one.snapshot is not None or (one.is_coming and one.taker is None)
            fed = len(one.tokens)
            length = usable(one.turns, fed, size, request.turns, len(tokens)) if has_kv else 0
            if length and length >= keep:
                best, keep = one, length
        if best is None:
            return True
        several.remove(best)
        several.append(best)
        request.reused_tokens = keep
        if best.snapshot is None:
            best.taker = request
            return False
        self._hand_over(best, request)
        return True

    def saved(self, source: Request, snapshot: KVSnapshot) -> Request | None:
        """The KV that a request left is saved; return who has waited for it."""
        one = self._coming.pop(source, None)
        if one is None or (one.is_given_up and one.taker is None):
            self._release(snapshot.segment)
            return None
        self._hold(one, replace(snapshot, keep=len(one.tokens)))
        return self._end_wait(one)

    def lost(self, source: Request) -> Request | None:
        """The KV that a request left will never be saved; return who has waited for it."""
        one = self._coming.pop(source, None)
        return None if one is None else self._end_wait(one)

    def is_awaited_by(self, request: Request) -> bool:
        return any(one.taker is request for one in self._coming.values())

    def give_back(self, request: Request) -> None:
        """A request will not take what it has waited for."""
        for one in self._coming.values():
            if one.taker is request:
                one.taker = None

    def forget(self, pid: int) -> None:
        """A task ended."""
        for one in self._by_task.pop(pid, ()):
            self._give_up(one)

    def drop_oldest(self) -> None:
        """Make room: give up KV. Raises StopIteration when there is none."""
        one = next(iter(self._held))
        self._drop(one)

    # -- inside -------------------------------------------------------------------------------

    def _end_wait(self, one: Context) -> Request | None:
        one.is_coming = False
        taker, one.taker = one.taker, None
        if taker is not None and one.snapshot is not None:
            self._hand_over(one, taker)
        elif taker is not None:
            taker.reused_tokens = 0
        return taker

    def _hand_over(self, one: Context, request: Request) -> None:
        """The KV goes to a request; how it came about stays known."""
        assert one.snapshot is not None
        request.snapshot = replace(one.snapshot, keep=request.reused_tokens)
        request.kv_tokens = request.reused_tokens
        one.snapshot = None
        del self._held[one]

    def _hold(self, one: Context, snapshot: KVSnapshot) -> None:
        one.snapshot = snapshot
        self._held[one] = None

    def _drop(self, one: Context) -> None:
        if one.snapshot is not None:
            self._release(one.snapshot.segment)
            one.snapshot = None
            del self._held[one]

    def _give_up(self, one: Context) -> None:
        one.is_given_up = True
        self._drop(one)


def _end(turns: Turns) -> int:
    return turns[-1][1] if turns else 0


def _goes_on(one: Context, old: Context) -> bool:
    """Whether whoever can use `old` can use `one` as well."""
    size = len(old.tokens)
    is_longer = size <= len(one.tokens) and one.tokens[:size] == old.tokens
    return is_longer and one.turns[: len(old.turns)] == old.turns
