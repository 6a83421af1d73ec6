"""Contexts kept when requests end, so that the next one of the same task computes only what is new in it.

A task has many, one for each conversation; a request goes on with the one that has most in common with it. What is
kept is how a context came about (its tokens and turns.py's turns), and its KV as long as there is memory for it:
whether the KV was still there changes no bit, for without it the same rows are fed again.

Who calls it: scheduler.py. What must hold: a task's contexts serve that task alone; which turns a request goes on with
is a function of what its task asked before, never of memory or of other tasks; KV is given up as soon as it is wanted.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace

from kernel.context.kv import Context, Kv
from kernel.context.sessions import Session
from kernel.context.tiers import Tiers
from kernel.engine.base import CHUNK_TOKENS
from kernel.limits import MAX_KEPT_CONTEXTS, MAX_KEPT_TOKENS, MAX_SESSION_CONTEXTS
from kernel.objects import KVSnapshot, Request
from kernel.sched.turns import Turns, common, shared_turns, usable
from kernel.states import RequestState, TaskState
from kernel.taskattr import SchedClass

Owner = int | Session  # a task, by its pid, or a session of its
_SAVED = "what it goes on with was being saved"
_ENDED_WELL = (RequestState.FINISHED_STOP, RequestState.FINISHED_LENGTH)
_KEEPING = (*_ENDED_WELL, RequestState.FINISHED_ABORTED)


class KeptContexts:
    """Those of all tasks, and of their sessions. `let_run` is told of whoever has waited for one."""

    def __init__(self, tiers: Tiers, let_run: Callable[[Request, str], None]) -> None:
        self._tiers = tiers
        self._let_run = let_run
        self._by_owner: dict[Owner, list[Context]] = {}  # least lately used first
        self._coming: dict[Request, Kv] = {}  # by the request that leaves it
        self._waiting: dict[Request, Context] = {}  # what each waits to take

    @staticmethod
    def is_worth(request: Request) -> bool:
        """Whether what a finished request has fed should outlive it.

        Not where a turn did without some of its session and failed: the session goes on from all that it had.
        """
        asked = request.options.keep
        return (
            (bool(request.chat or request.session) if asked is None else asked)
            and request.state in (_ENDED_WELL if request.is_cut else _KEEPING)
            and request.kv_tokens >= CHUNK_TOKENS
            and request.task.state is not TaskState.ZOMBIE
        )

    def put(self, request: Request) -> bool:
        """Keep a finished request's context; say whether its KV is still to be saved from its slot.

        A session that goes on without some of its turns has no use for what it had before.
        """
        turns = request.turns
        if request.kv_tokens > request.prompt_tokens:
            turns += ((request.prompt_tokens, request.kv_tokens),)
        made = Context(array("I", request.tokens[: request.kv_tokens]), turns)
        several = self._by_owner.setdefault(_owner(request), [])
        replaced = [old for old in several if request.is_cut or _goes_on(made, old)]
        if not replaced and any(_goes_on(one, made) for one in several):
            return False  # cut off while it computed again what another context tells more of
        for old in replaced:
            self._give_up(old)
            several.remove(old)
        several.append(made)
        most = MAX_KEPT_CONTEXTS if request.session is None else MAX_SESSION_CONTEXTS
        while len(several) > most or sum(len(one.tokens) for one in several) > MAX_KEPT_TOKENS:
            self._give_up(several.pop(0))
        if request.slot is not None:
            self._coming[request] = kv = Kv(len(made.tokens), is_coming=True)
            made.share(kv)
        elif request.snapshot is not None:
            kv = Kv(len(made.tokens))
            made.share(kv)
            self._tiers.hold(kv, request.snapshot)
            request.snapshot = None
        return request.slot is not None

    def recall(self, request: Request) -> None:
        """Have a new request fed as its task's contexts, as they are now, were."""
        shared = self._shared(request)
        if shared:
            nearest, _ = max(reversed(shared), key=lambda pair: pair[1])
            several = self._by_owner[_owner(request)]
            several.remove(nearest)  # whether its KV is there or not: what is forgotten first must not depend on that
            several.append(nearest)
        for one, size in shared:
            turns = shared_turns(one.turns, size)
            if _end(turns) >= _end(request.turns):
                request.turns = turns

    def lend(self, request: Request) -> bool:
        """Give it what it can go on with. False: the KV of that is being saved, and it should wait."""
        best, keep = None, 0
        for one, size in self._shared(request):
            fed = len(one.tokens)
            length = usable(one.turns, fed, size, request.turns, len(request.tokens)) if _has_kv(one) else 0
            if length and length >= keep:
                best, keep = one, length
        if best is None:
            return True
        request.reused_tokens = keep
        kv = best.kv
        assert kv is not None
        if not self._tiers.is_free(kv, _rank(request)):
            kv.takers.append((request, best))
            self._waiting[request] = best
            if not kv.is_coming:
                self._tiers.want(kv, _rank(request))
            return False
        self._hand_over(best, request)
        return True

    def fork(self, source: Owner, target: Owner) -> None:
        """Let a new owner go on from whatever another can go on from, with a share of its KV."""
        for one in self._by_owner.get(source, ()):
            twin = Context(one.tokens, one.turns)
            self._by_owner.setdefault(target, []).append(twin)
            if one.kv is not None:
                twin.share(one.kv)

    def move(self, source: Owner, target: Owner) -> None:
        """Let one owner have all that another had, and nothing of its own."""
        self.forget(target)
        if source in self._by_owner:
            self._by_owner[target] = self._by_owner.pop(source)

    def saved(self, source: Request, snapshot: KVSnapshot) -> None:
        """The KV that a request left is saved."""
        kv = self._coming.pop(source, None)
        if kv is None or not kv.contexts:
            self._tiers.store.release(snapshot.segment)
            return
        self._tiers.hold(kv, replace(snapshot, keep=kv.tokens))
        if kv.takers:
            self._tiers.want(kv, _rank(kv.takers[0][0]))

    def lost(self, source: Request) -> None:
        """The KV that a request left will never be saved."""
        kv = self._coming.pop(source, None)
        if kv is not None:
            kv.is_coming = False
            self.end_wait(kv, _SAVED)
            self._tiers.lose(kv)

    def end_wait(self, kv: Kv, cause: str) -> None:
        """KV has come to memory, or never will: whoever has waited for it goes on."""
        takers, kv.takers = kv.takers, []
        for request, context in takers:
            self._waiting.pop(request)
            if kv.is_resident:
                self._hand_over(context, request)
            else:
                request.reused_tokens = 0
            self._let_run(request, cause)

    def give_back(self, request: Request) -> None:
        """A request will not take what it has waited for."""
        context = self._waiting.pop(request, None)
        if context is None or context.kv is None:
            return
        context.kv.takers.remove((request, context))
        if not context.kv.takers:
            self._tiers.unwant(context.kv)
        if not any(one is context for several in self._by_owner.values() for one in several):
            self._give_up(context)

    def forget(self, owner: Owner) -> None:
        """A task ended, or a session of its."""
        for one in self._by_owner.pop(owner, ()):
            self._give_up(one)

    def contexts_of(self, owner: Owner) -> tuple[Context, ...]:
        """Return how what is kept for an owner came about."""
        return tuple(self._by_owner.get(owner, ()))

    def take_up(self, owner: Owner, contexts: Iterable[Context]) -> None:
        """Keep for a new owner what another kernel kept, without KV."""
        self._by_owner[owner] = list(contexts)

    def standing(self, owner: Owner) -> tuple[str, int]:
        """Return where its KV is, and how many bytes; of what was forked, its part."""
        several = [one.kv for one in self._by_owner.get(owner, ()) if one.kv is not None]
        sizes = [kv.snapshot.size_bytes // len(kv.contexts) for kv in several if kv.snapshot is not None]
        if not sizes:
            return "none", 0
        return "memory" if several[-1].is_resident else "disk", sum(sizes)

    # -- inside -------------------------------------------------------------------------------

    def _shared(self, request: Request) -> list[tuple[Context, int]]:
        """Return what its task has, each with how many first tokens of it are the request's too."""
        tokens = array("I", request.tokens)
        several = self._by_owner.get(_owner(request), ())
        return [(one, min(common(one.tokens, tokens), len(tokens) - 1)) for one in several]

    def _hand_over(self, context: Context, request: Request) -> None:
        """A request takes a context's part in its KV; how it came about stays known."""
        kv = context.kv
        assert kv is not None
        assert kv.snapshot is not None
        request.snapshot = replace(kv.snapshot, keep=request.reused_tokens)
        request.kv_tokens = request.reused_tokens
        context.kv = None
        kv.contexts.remove(context)
        self._tiers.part(kv)

    def _give_up(self, context: Context) -> None:
        """Let go of a context's part in its KV, unless somebody waits to take it."""
        kv = context.kv
        if kv is None or _is_awaited(context, kv):
            return
        context.kv = None
        kv.contexts.remove(context)
        if not kv.contexts:
            self._tiers.drop(kv)


def _has_kv(context: Context) -> bool:
    """Whether a context's KV is there or will be, and nobody else is to take it."""
    return context.kv is not None and not _is_awaited(context, context.kv)


def _is_awaited(context: Context, kv: Kv) -> bool:
    return any(one is context for _, one in kv.takers)


def _owner(request: Request) -> Owner:
    return request.task.pid if request.session is None else request.session


def _rank(request: Request) -> SchedClass:
    return request.task.sched.sched_class


def _end(turns: Turns) -> int:
    return turns[-1][1] if turns else 0


def _goes_on(one: Context, old: Context) -> bool:
    """Whether whoever can use `old` can use `one` as well."""
    size = len(old.tokens)
    is_longer = size <= len(one.tokens) and one.tokens[:size] == old.tokens
    return is_longer and one.turns[: len(old.turns)] == old.turns
