"""Every syscall: its fields, what it answers and how it fails. docs/protocol.md is made from this.

Who uses it: dispatch.py validates a call's body against its class here before any handler runs; the
SDK builds bodies from the same names. What must hold: a field that is not here is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kernel.abi.ctxcalls import (
    MAX_SESSION,
    CtxClose,
    CtxCommit,
    CtxFork,
    CtxList,
    CtxMessages,
    CtxOpen,
    CtxStat,
)
from kernel.abi.errors import Errno, KernelError
from kernel.abi.schedcalls import (
    MAX_GROUP_CHARS,
    GroupAttach,
    GroupCreate,
    GroupRemove,
    GroupSetattr,
    GroupStat,
    SchedGetattr,
    SchedGetpolicies,
    SchedHint,
    SchedSetattr,
    SchedStat,
    SysPressure,
)
from kernel.abi.schema import MAX_NAME_CHARS, MAX_TOKENS, bounded, check_body, schema_of
from kernel.abi.textcalls import LlmDetokenize, LlmEmbed, LlmTokenize

# Bounds of single fields; what they bound is said where they are used.
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_MESSAGES = 800  # five values each: see shape.py
MAX_TOOLS_CHARS = 128 << 10
MAX_CONSTRAINT_CHARS = 64 << 10
MAX_BIASES = 1024
MAX_BIAS = 100.0
MAX_LOGPROBS = 20
MAX_LOGPROB_ENTRIES = 1 << 16  # of a reply: max_tokens times (logprobs + 1)
MAX_MAIL_BYTES = 64 << 10
MAX_LOG_CHARS = 4096
# What a task may be given; an operator has all.
CAPABILITIES = ("task.create", "sched.raise", "sched.realtime", "sched.group")


@dataclass(frozen=True, slots=True, kw_only=True)
class SysHello:
    """Introduce this process to the kernel; the first call on a connection.

    Answers {version, pid, kernel_pid, connection, model, window_tokens, policy}. `connection` is its number
    on the side channel; window_tokens is 0 until the first model was loaded. EPROTO: another version; EAGAIN: too
    many tasks; EINVAL: in a held task's name."""

    version: int = bounded(0, 1 << 31)
    name: str = bounded(0, MAX_NAME_CHARS, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SysInfo:
    """Answer {version, model, description, is_ready, slots, window_tokens, threads, policy,
    tasks, uptime_s, kernel_pid, core_pid, core_restarts, extra_buffers, flash_attention, kv_type,
    models: [{name, state, core_pid, core_restarts, banks: [[slots, window_tokens, size_bytes]], kv_bytes}]}.

    is_ready: the first model is loaded and an LLM core serves it; kv_type: of the keys and values in its contexts. All
    but `models` is of the first model, or of the kernel; llm.models says more of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SysStat:
    """Answer the kernel's counters since boot: {steps, core_busy_s, generated_tokens, prompt_tokens,
    recomputed_tokens, switches, held_preemptions, restores, failed_restores, dropped_contexts,
    switch_bytes, switch_s, core_restarts, bad_messages, cut_connections, throttled, segment_bytes,
    snapshot_bytes, requests: {state: count}, runs, moves, sampling_s, reused_tokens, sched_s, charged_s, cost_r2,
    cost_p95_error, rescues, longest_wait_s, paused, models: [{name, ...}]}.

    cut_connections: closed by the kernel for what their peers did; held_preemptions: switches inside a
    character, a possible stop string or a grammar; segment_bytes: held for parked contexts, snapshot_bytes: of
    those in use; runs: passes over the model's weights; moves: contexts that changed places inside the core;
    reused_tokens: of prompts, whose context was still there; sched_s: the kernel's own time for steps' results and
    next plans; charged_s: modelled core time; cost_p95_error: of the model, relative; rescues: waits that reached that
    stage; paused: tasks without memory for their contexts. Counters of a model are the first one's here, and
    each one's in `models`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmGenerate:
    """Generate text from exactly one of `prompt`, `messages` or `tokens` (a list, or 4 bytes little-endian each).

    `messages` are maps {role, content, tool_calls: [{id, type, function: {name, arguments}}], tool_call_id, name,
    reasoning_content}, laid out by the model's own template, which gets `tools` (maps, or JSON text of a list of
    these) and `thinking` too. `logit_bias` maps token ids, as decimal text, to numbers from -100, which forbids the
    token, to 100. `grammar` (GBNF) or `json_schema` (JSON text) says what the text must be; `json_around`, what
    stands before and after that JSON, such as the marks of a tool call. `special` shows control
    tokens by name. `model` is a name of llm.models; the first that generates, if left out.

    `keep`: what was computed is kept for the task's next request that begins alike, if left out for `messages` only.
    With `session`, a number of ctx.open, the prompt is what a turn adds to that: an answer joins it when it ends well,
    with an error all stays as it was. New messages may begin with the last answer as the caller reads it.

    With stream, chunks {text, tokens} come before the reply. Answers {text, tokens, finish_reason:
    "stop"|"length"|"quota", usage: {prompt_tokens, cached_tokens, generated_tokens}, timings: {queued_s, first_token_s,
    wait_s, total_s, core_s, switches, restores, recomputed_tokens}}. With logprobs, the answer and the chunks have
    logprobs: [{token, logprob, top: [[token, logprob]]}]; made from messages, the answer and the first chunk have
    {chat_format, opens_reasoning}: how the model writes tool calls, and whether its text begins inside reasoning. Where
    a session's window had turns or tokens of it go, the answer has {dropped_turns, dropped_tokens}: how many. That of a
    durable session has `durable`: see ctx.open.

    ENOENT, EBUSY, ENOMEM: no such session, it has a turn under way, too many bytes of messages;
    EINVAL: a field, or the model's template, grammar or schema refuses it; ENOENT: no such model; EFBIG: the
    prompt and one token do not fit the window; EAGAIN: too many requests in flight, or too long a wait, then with
    retry_after_ms; EDQUOT: a quota of its task or group is used up; ETIMEDOUT: deadline; EINTR: cancelled; EIO: three
    LLM cores died while this request was on them, or the model cannot be loaded."""

    prompt: str | None = None
    messages: list | None = bounded(1, MAX_MESSAGES, None)
    tokens: list | bytes | None = bounded(1, 4 * MAX_TOKENS, None)
    tools: list | str | None = bounded(0, MAX_TOOLS_CHARS, None)
    thinking: bool | None = None
    model: str = bounded(0, MAX_NAME_CHARS, "")
    max_tokens: int = bounded(1, 1 << 20, 256)
    temperature: float = bounded(0.0, 100.0, 0.0)
    top_k: int = bounded(0, 1 << 20, 40)
    top_p: float = bounded(0.0, 1.0, 1.0)
    min_p: float = bounded(0.0, 1.0, 0.0)
    typical_p: float = bounded(0.0, 1.0, 1.0)
    repeat_penalty: float = bounded(0.01, 100.0, 1.0)
    presence_penalty: float = bounded(-100.0, 100.0, 0.0)
    frequency_penalty: float = bounded(-100.0, 100.0, 0.0)
    penalty_tokens: int = bounded(0, 4096, 64)
    logit_bias: dict | None = bounded(0, MAX_BIASES, None)
    logprobs: int | None = bounded(0, MAX_LOGPROBS, None)
    seed: int = bounded(0, (1 << 63) - 1, 0)
    stop: list | None = bounded(0, MAX_STOP_STRINGS, None)
    grammar: str | None = bounded(1, MAX_CONSTRAINT_CHARS, None)
    json_schema: str | None = bounded(1, MAX_CONSTRAINT_CHARS, None)
    json_around: list | None = bounded(2, 2, None)
    special: bool = False
    ignore_end: bool = False
    keep: bool | None = None
    session: int = bounded(0, MAX_SESSION, 0)
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmCancel:
    """End one of the caller's own requests within a step; it ends with EINTR. Answers {cancelled: bool}."""

    call: int = bounded(1, (1 << 63) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmStatus:
    """Answer where one of the caller's own requests stands: {state, position, expected_wait_s, prompt_tokens,
    fed_tokens, cached_tokens, generated_tokens}.

    state: "preparing" (tokenizing, loading), "queued", "reading" (its prompt), "writing", "parked", "gone". position:
    how many without a slot came before it, plus one; 0: it holds one. expected_wait_s: so many times the mean time
    between the last requests' ends, null while too few have ended."""

    call: int = bounded(1, (1 << 63) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmModels:
    """Answer {models: [{name, path, description, family, exactness, state, reason, window_tokens, chat_format,
    takes_tools, is_embedding, embedding_width, devices, slots}]}, the first one first.

    state: unloaded, loading, ready, stopping, failed; `reason` says why it failed. What only its LLM core can know
    is empty, zero or false until it was loaded once; embedding_width is 0 for a model that generates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcSpawn:
    """Start a Python script as a child task of the caller. Answers {pid}.

    `script` is a path; relative ones are seen from `cwd`, or from the kernel's folder. `env` is added to
    the kernel's; `priority` (nice) and `group` are the caller's own unless given; `capabilities` are among its own.
    EINVAL: no such script or capability; ENOENT: no such group; EPERM: a priority above the caller's, another's group,
    or a capability that it lacks; EAGAIN: too many tasks."""

    script: str = bounded(1, 4096)
    args: list = bounded(0, 256, ())
    name: str = bounded(0, MAX_NAME_CHARS, "")
    env: dict | None = bounded(0, 256, None)
    cwd: str | None = bounded(1, 4096, None)
    priority: int | None = bounded(-20, 19, None)
    group: str = bounded(0, MAX_GROUP_CHARS, "")
    capabilities: list = bounded(0, 16, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCreate:
    """Create a task without a process, held by the caller: a child of it, scheduled, accounted, limited and
    killed as any task is. Answers {pid}, a number above every process's.

    Calls are made in its name with the option `task`. `group` is the caller's own unless given. It ends by proc.exit in
    its own name, by proc.kill, or with its holder: an agent's process, an operator's connection. EPERM: the caller
    lacks the capability task.create, or a priority above its own, or another's group; ENOENT: no such group; EAGAIN."""

    name: str = bounded(0, MAX_NAME_CHARS, "")
    priority: int | None = bounded(-20, 19, None)
    group: str = bounded(0, MAX_GROUP_CHARS, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcExit:
    """Say that this task ends of its own will with `status`; the process exits next. Answers {}.

    A task without a process has ended when this is answered."""

    status: int = bounded(0, 255, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcWait:
    """Wait for a child (pid 0: any) to end and reap it.

    Answers {pid, name, status, signal, reason, tail: last lines of its output, usage}: status is null
    after a death by signal. ECHILD: no such child; ETIMEDOUT: `timeout_ms` passed."""

    pid: int = bounded(0, 1 << 31, 0)
    timeout_ms: int | None = bounded(0, 1 << 40, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcKill:
    """Send a signal (TERM, KILL, INT, STOP, CONT, USR1, USR2) to a child, oneself, or, as an operator,
    any task. STOP also takes the task's requests off the model; a task without a process ends by TERM, INT
    and KILL and has no USR1 and USR2. Answers {}. ESRCH, EPERM, EINVAL."""

    pid: int = bounded(1, 1 << 31)
    signal: str = bounded(1, 16, "TERM")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcPs:
    """Answer {tasks: [{pid, ppid, name, has_process, state, waits_for, priority, sched_class, policy, group,
    attained_s, waits_now_s, stage, bound_s, cpu_s, cpu_percent, throttled, rss_bytes, requests, in_flight,
    context_tokens, context_limit, prompt_tokens, generated_tokens, recomputed_tokens, switches, restores, switch_bytes,
    wait_s, ttft_s, calls, age_s, status, signal}]}.

    context_tokens: of the task's largest context in flight; context_limit: what its model allows, 0 until that is
    known. policy: "" is its group's; waits_now_s, stage, bound_s as in sched.stat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcLogs:
    """Answer {pid, name, text}: the last bytes a task wrote to stdout, stderr and log.write. ESRCH, EPERM."""

    pid: int = bounded(1, 1 << 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class IpcSend:
    """Put a message into a task's mailbox, waiting while it is full. Answers {}.

    Full is also a sender whose messages that nobody took yet come to 1 MiB. ESRCH: no such task; EMSGSIZE:
    over 64 KiB; ETIMEDOUT: still full after timeout_ms; EPIPE: it died."""

    to: int = bounded(1, 1 << 31)
    data: bytes = bounded(0, MAX_MAIL_BYTES)
    timeout_ms: int | None = bounded(0, 1 << 40, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IpcRecv:
    """Take the oldest message from the caller's mailbox, waiting for one. Answers {sender, data}.

    ETIMEDOUT: none within timeout_ms."""

    timeout_ms: int | None = bounded(0, 1 << 40, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemCreate:
    """Make a shared-memory segment of the caller's, zeroed. Answers {name, size_bytes, segment}: the process
    that speaks for the task gets its descriptor on the side channel by that number. EEXIST, ENOMEM."""

    name: str = bounded(1, MAX_NAME_CHARS)
    size_bytes: int = bounded(1, 1 << 34)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemStat:
    """Answer {segments: [{name, size_bytes, segment}], used_bytes, limit_bytes} of the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemUnlink:
    """Remove a segment of the caller's. Answers {}. ENOENT."""

    name: str = bounded(1, MAX_NAME_CHARS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWrite:
    """Append a line to the caller's log, beside what it prints. Answers {}."""

    text: str = bounded(0, MAX_LOG_CHARS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SysSlots:
    """Answer who holds which slot now: {models: [{name, banks:
    [{window_tokens, slots, held: [[slot, pid, tokens, phase]]}]}]}.

    slot is counted from the bank's first; phase is "read" while the prompt is computed, then "write"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SysShutdown:
    """End every task and then the kernel. Answers {} before it goes. EPERM: operators only."""


CALLS: dict[str, type] = {
    "sys.hello": SysHello,
    "sys.info": SysInfo,
    "sys.stat": SysStat,
    "sys.shutdown": SysShutdown,
    "llm.generate": LlmGenerate,
    "llm.cancel": LlmCancel,
    "llm.status": LlmStatus,
    "sys.slots": SysSlots,
    "llm.tokenize": LlmTokenize,
    "llm.detokenize": LlmDetokenize,
    "llm.embed": LlmEmbed,
    "llm.models": LlmModels,
    "task.create": TaskCreate,
    "proc.spawn": ProcSpawn,
    "proc.exit": ProcExit,
    "proc.wait": ProcWait,
    "proc.kill": ProcKill,
    "proc.ps": ProcPs,
    "proc.logs": ProcLogs,
    "ipc.send": IpcSend,
    "ipc.recv": IpcRecv,
    "mem.create": MemCreate,
    "mem.stat": MemStat,
    "mem.unlink": MemUnlink,
    "ctx.open": CtxOpen,
    "ctx.close": CtxClose,
    "ctx.fork": CtxFork,
    "ctx.commit": CtxCommit,
    "ctx.list": CtxList,
    "ctx.stat": CtxStat,
    "ctx.messages": CtxMessages,
    "sched.setattr": SchedSetattr,
    "sched.getattr": SchedGetattr,
    "sched.getpolicies": SchedGetpolicies,
    "sched.hint": SchedHint,
    "sched.stat": SchedStat,
    "group.create": GroupCreate,
    "group.setattr": GroupSetattr,
    "group.attach": GroupAttach,
    "group.remove": GroupRemove,
    "group.stat": GroupStat,
    "sys.pressure": SysPressure,
    "log.write": LogWrite,
}


SCHEMAS = {method: schema_of(call) for method, call in CALLS.items()}

_EMPTY = {  # a call without fields is made once: they are frozen
    method: call()
    for method, call in CALLS.items()
    if not any(is_required for _, _, _, is_required in SCHEMAS[method].values())
}


def validate(method: str, body: dict[str, Any]) -> Any:
    """Return the call object for a body. Raises KernelError ENOSYS, EINVAL or EMSGSIZE naming field and value."""
    call = CALLS.get(method)
    if call is None:
        raise KernelError(Errno.ENOSYS, f"no method {method[:64]!a}")
    if not body and method in _EMPTY:
        return _EMPTY[method]
    check_body(method, SCHEMAS[method], body)
    return call(**body)
