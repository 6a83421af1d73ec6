"""The calls of ctx.*: see calls.py, whose part this is."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.abi.schema import MAX_NAME_CHARS, MAX_TOKENS, bounded

MAX_SESSION = (1 << 63) - 1
WINDOWS = ("refuse", "drop", "shift")


@dataclass(frozen=True, slots=True, kw_only=True)
class CtxOpen:
    """Open a session: a conversation whose context is kept from call to call. Answers its number and how much it has
    of the rest, 0 in a new one: {session, turns, messages, tokens}.

    llm.generate with `session` adds to it. `model` is a name of llm.models; the first that generates, if left out. It
    ends with ctx.close or with its task.

    `window` says what becomes of a turn that does not fit the model's window. "refuse": it is refused. The others
    also see to room for its answer: max_tokens, half of the window at most. "drop", for messages: the oldest turns go,
    as few as leave half of what would be free without any; a turn is what is said, its answer, calls of tools and their
    results; messages of the system that come first stay, and those of the call. "shift", for a prompt or tokens: the
    first `keep_tokens` stay (1, that which opens the context, if left out), and of the tokens after them the older half
    goes. A turn is refused where what must stay does not fit; an answer that then has less room ends with "length".
    llm.generate answers what went.

    One that is `durable` outlives its task, the kernel and the machine: a task of the same name in the same group that
    opens the `name` again goes on where it was left; a name that is not known begins a new one. A turn of it is
    answered when it is on disk, and the answer says `durable`: false if it could not be written, and is in memory
    alone.

    ENOENT: no such model; EINVAL: it does not generate, no such window, keep_tokens without "shift", or a durable
    session has no name, is one of a task without a name, or was made with another model; EBUSY: it is open already;
    EPERM: an operator has none; EAGAIN, ENOMEM: too many sessions of the task, or bytes of messages; EIO: the model
    cannot be loaded, the disk cannot be read, or what was written is damaged: it is moved aside then, and the next call
    begins a new one."""

    model: str = bounded(0, MAX_NAME_CHARS, "")
    window: str = bounded(0, MAX_NAME_CHARS, "refuse")
    keep_tokens: int | None = bounded(0, MAX_TOKENS, None)
    name: str = bounded(0, MAX_NAME_CHARS, "")
    durable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CtxClose:
    """Close a session of the caller's; a turn of it under way is cancelled. Answers {}.

    With `forget`, a durable one is deleted from the disk as well. ENOENT; EINVAL: it is not durable; EIO: it is closed,
    and could not be deleted; EPERM: an operator."""

    session: int = bounded(1, MAX_SESSION)
    forget: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CtxFork:
    """Make sessions that go on from where one of the caller's is, sharing what is saved of its KV. None is durable.

    Answers {sessions: [number]}. EBUSY: a turn of it is under way; EAGAIN: too many sessions; ENOMEM: their messages
    come to too many bytes; ENOENT, EPERM."""

    session: int = bounded(1, MAX_SESSION)
    count: int = bounded(1, 1024, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CtxCommit:
    """Make the session that a fork came from what the fork has become, and close the fork. Answers {session}: the
    number of that, and `durable` as in ctx.open if that is so.

    EINVAL: it is no fork, or its parent is closed or has gone on by turns of its own; EBUSY: a turn of either is under
    way; ENOENT, EPERM."""

    session: int = bounded(1, MAX_SESSION)


@dataclass(frozen=True, slots=True, kw_only=True)
class CtxList:
    """Answer {sessions: [{session, name, durable, pid, model, turns, messages, tokens, window, dropped_turns,
    dropped_tokens, where, kv_bytes, idle_s}], more}, oldest first: an agent's own, or for an operator those of the task
    `pid`, 0 of all.

    At most 2,048 with numbers above `after`; `more`: there are others after the last of these.

    tokens: of its context as the last turn left it; dropped_turns, dropped_tokens: what it goes on without; where:
    "slot" while a turn runs, "memory" or "disk" when its KV is there, "none" when a turn has to compute all of it
    again; kv_bytes: of its KV. ESRCH, EPERM: another's."""

    pid: int = bounded(0, 1 << 31, 0)
    after: int = bounded(0, MAX_SESSION, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CtxStat:
    """Answer where contexts are: {models: [{name, token_bytes, tiers: [{tier, contexts, bytes, limit_bytes}], waiting,
    written_bytes, read_bytes}]}.

    tier: "slot", "memory" for those that are saved there, running requests' included, "disk"; a context that memory
    holds and the disk as well is counted in both. token_bytes: of one token's KV; waiting: requests whose context is
    being read, or is to be; written_bytes, read_bytes: to and from the disk since boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CtxMessages:
    """Answer what was said in a session of the caller's: {messages: [map], more, answer}.

    Those after the first `after`, as many as come to 256 KiB, or one; `more`: there are others. answer: what the last
    turn was answered, {text, chat_format, opens_reasoning} as its reply had them, while no message repeats it; or null.
    ENOENT, EPERM."""

    session: int = bounded(1, MAX_SESSION)
    after: int = bounded(0, MAX_SESSION, 0)
