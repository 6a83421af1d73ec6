"""Contexts kept when requests end, so that the next one of the same task computes only what is new in it.

A task has many, one for each conversation; a request goes on with the one that has most in common with it. What is
kept is how a context came about (its tokens and turns.py's turns), and its KV as long as there is memory for it:
whether the KV was still there changes no bit, for without it the same rows are fed again.

Who calls it: scheduler.py. What must hold: a task's contexts serve that task alone; which turns a request goes on with
is a function of what its task asked before, never of memory or of other tasks; KV is given up as soon as it is wanted.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace

from kernel.context.sessions import Session
from kernel.context.store import SegmentStore
from kernel.engine.base import CHUNK_TOKENS
from kernel.limits import MAX_KEPT_CONTEXTS, MAX_KEPT_TOKENS, MAX_SESSION_CONTEXTS
from kernel.objects import KVSnapshot, Request
from kernel.sched.turns import Turns, common, shared_turns, usable
from kernel.states import RequestState, TaskState

Owner = int | Session  # a task, by its pid, or a session of its
_KEEPING = (RequestState.FINISHED_STOP, RequestState.FINISHED_LENGTH, RequestState.FINISHED_ABORTED)


@dataclass(slots=True, eq=False)
class Kv:
    """The KV of a context, which several have after a fork: each of them holds a share of its segment."""

    tokens: int
    contexts: list[Context] = field(default_factory=list)
    is_coming: bool = False  # it is being saved
    snapshot: KVSnapshot | None = None
    takers: list[tuple[Request, Context]] = field(default_factory=list)  # who waits for that save


@dataclass(slots=True, eq=False)
class Context:
    """How a request's context came about."""

    tokens: array[int]  # that were fed
    turns: Turns
    kv: Kv | None = None  # None: it was given up, or a request has it


class KeptContexts:
    """Those of all tasks, and of their sessions. Segments go back to the store, a share at a time."""

    def __init__(self, store: SegmentStore) -> None:
        self._store = store
        self._by_owner: dict[Owner, list[Context]] = {}  # least lately used first
        self._held: dict[Kv, None] = {}  # what is saved; least lately used first
        self._coming: dict[Request, Kv] = {}  # by the request that leaves it

    def __len__(self) -> int:
        """How many are saved."""
        return len(self._held)

    @staticmethod
    def is_worth(request: Request) -> bool:
        """Whether what a finished request has fed should outlive it."""
        asked = request.options.keep
        return (
            (bool(request.chat or request.session) if asked is None else asked)
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
        several = self._by_owner.setdefault(_owner(request), [])
        for old in [old for old in several if _goes_on(made, old)]:
            self._give_up(old)
            several.remove(old)
        several.append(made)
        most = MAX_KEPT_CONTEXTS if request.session is None else MAX_SESSION_CONTEXTS
        while len(several) > most or sum(len(one.tokens) for one in several) > MAX_KEPT_TOKENS:
            self._give_up(several.pop(0))
        if request.slot is not None:
            _share(Kv(len(made.tokens), is_coming=True), made)
            self._coming[request] = made.kv
        elif request.snapshot is not None:
            kv = Kv(len(made.tokens), snapshot=request.snapshot)
            _share(kv, made)
            self._held[kv] = None
            request.snapshot = None
        return request.slot is not None

    def lend(self, request: Request) -> bool:
        """Give a new request what it can go on with. False: the KV of that is being saved, and it should wait."""
        tokens = array("I", request.tokens)
        several = self._by_owner.get(_owner(request), ())
        shared = [(one, min(common(one.tokens, tokens), len(tokens) - 1)) for one in several]
        for one, size in shared:
            turns = shared_turns(one.turns, size)
            if _end(turns) >= _end(request.turns):
                request.turns = turns
        best, keep = None, 0
        for one, size in shared:
            fed = len(one.tokens)
            length = usable(one.turns, fed, size, request.turns, len(tokens)) if _has_kv(one) else 0
            if length and length >= keep:
                best, keep = one, length
        if best is None:
            return True
        several.remove(best)
        several.append(best)
        request.reused_tokens = keep
        assert best.kv is not None
        if best.kv.is_coming:
            best.kv.takers.append((request, best))
            return False
        self._hand_over(best, request)
        return True

    def fork(self, source: Owner, target: Owner) -> None:
        """Let a new owner go on from whatever another can go on from, with a share of its KV."""
        for one in self._by_owner.get(source, ()):
            twin = Context(one.tokens, one.turns)
            self._by_owner.setdefault(target, []).append(twin)
            if one.kv is not None:
                _share(one.kv, twin)
                if one.kv.snapshot is not None:
                    self._store.share(one.kv.snapshot.segment)

    def move(self, source: Owner, target: Owner) -> None:
        """Let one owner have all that another had, and nothing of its own."""
        self.forget(target)
        if source in self._by_owner:
            self._by_owner[target] = self._by_owner.pop(source)

    def saved(self, source: Request, snapshot: KVSnapshot) -> list[Request]:
        """The KV that a request left is saved; return who has waited for it."""
        kv = self._coming.pop(source, None)
        if kv is None or not kv.contexts:
            self._store.release(snapshot.segment)
            return []
        for _ in kv.contexts[1:]:
            self._store.share(snapshot.segment)
        kv.snapshot = replace(snapshot, keep=kv.tokens)
        self._held[kv] = None
        return self._end_wait(kv)

    def lost(self, source: Request) -> list[Request]:
        """The KV that a request left will never be saved; return who has waited for it."""
        kv = self._coming.pop(source, None)
        if kv is None:
            return []
        waited = self._end_wait(kv)
        for context in kv.contexts:
            context.kv = None
        return waited

    def give_back(self, request: Request) -> None:
        """A request will not take what it has waited for."""
        for kv in self._coming.values():
            for taker, context in kv.takers:
                if taker is request:
                    kv.takers.remove((taker, context))
                    if context not in self._by_owner.get(_owner(request), ()):
                        self._give_up(context)
                    return

    def forget(self, owner: Owner) -> None:
        """A task ended, or a session of its."""
        for one in self._by_owner.pop(owner, ()):
            self._give_up(one)

    def bytes_of(self, owner: Owner) -> int:
        """What is saved of its KV; of what was forked, its part."""
        held = [one.kv for one in self._by_owner.get(owner, ()) if one.kv]
        return sum(kv.snapshot.size_bytes // len(kv.contexts) for kv in held if kv.snapshot)

    def drop_oldest(self) -> None:
        """Make room: give up KV. Raises StopIteration when there is none."""
        kv = next(iter(self._held))
        for context in list(kv.contexts):
            self._give_up(context)

    # -- inside -------------------------------------------------------------------------------

    def _end_wait(self, kv: Kv) -> list[Request]:
        kv.is_coming = False
        takers, kv.takers = kv.takers, []
        for request, context in takers:
            if kv.snapshot is not None:
                self._hand_over(context, request)
            else:
                request.reused_tokens = 0
        return [request for request, _ in takers]

    def _hand_over(self, context: Context, request: Request) -> None:
        """A context's share of its KV goes to a request; how it came about stays known."""
        kv = self._part(context)
        assert kv.snapshot is not None
        request.snapshot = replace(kv.snapshot, keep=request.reused_tokens)
        request.kv_tokens = request.reused_tokens

    def _give_up(self, context: Context) -> None:
        """Let go of a context's share of its KV, unless somebody waits to take it."""
        if context.kv is None or _is_awaited(context, context.kv):
            return
        kv = self._part(context)
        if kv.snapshot is not None:
            self._store.release(kv.snapshot.segment)

    def _part(self, context: Context) -> Kv:
        kv, context.kv = context.kv, None
        assert kv is not None
        kv.contexts.remove(context)
        if not kv.contexts:
            self._held.pop(kv, None)
        return kv


def _share(kv: Kv, context: Context) -> None:
    context.kv = kv
    kv.contexts.append(context)


def _has_kv(context: Context) -> bool:
    """Whether a context's KV is there or will be, and nobody else is to take it."""
    return context.kv is not None and not _is_awaited(context, context.kv)


def _is_awaited(context: Context, kv: Kv) -> bool:
    return any(one is context for _, one in kv.takers)


def _owner(request: Request) -> Owner:
    return request.task.pid if request.session is None else request.session


def _end(turns: Turns) -> int:
    return turns[-1][1] if turns else 0


def _goes_on(one: Context, old: Context) -> bool:
    """Whether whoever can use `old` can use `one` as well."""
    size = len(old.tokens)
    is_longer = size <= len(one.tokens) and one.tokens[:size] == old.tokens
    return is_longer and one.turns[: len(old.turns)] == old.turns
