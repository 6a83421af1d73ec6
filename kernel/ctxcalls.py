"""The handlers of ctx.*.

Who calls it: dispatch.py's table. What must hold: who is refused has changed nothing; what was kept for a session goes
with it.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from kernel.abi import ctxcalls as abi
from kernel.abi.codec import pack
from kernel.abi.errors import Errno, KernelError
from kernel.context.sessions import Session, Terms
from kernel.limits import MAX_LISTED_SESSIONS, PAGE_BYTES
from kernel.objects import Call
from kernel.report import describe_tiers

if TYPE_CHECKING:
    from kernel.core import Kernel


_KEEP_TOKENS = 1  # that which opens the context, on which attention leans


def open_(kernel: Kernel, call: Call, options: abi.CtxOpen, now_ns: int) -> dict[str, Any] | None:
    task = call.needs_task()
    core = kernel.cores.find(call.method, options.model, embedding=False)
    window, keep_tokens = options.window, options.keep_tokens
    if window not in abi.WINDOWS:
        text = f"window {window!a} is not one of {', '.join(abi.WINDOWS)}"
        raise KernelError(Errno.EINVAL, f"{call.method}: {text}")
    if keep_tokens is not None and window != "shift":
        text = f"keep_tokens is {keep_tokens}, which goes with the window 'shift' and not with {window!a}"
        raise KernelError(Errno.EINVAL, f"{call.method}: {text}")
    if keep_tokens is None:
        keep_tokens = _KEEP_TOKENS
    terms = Terms(core.number, core.model.name, options.name, window, keep_tokens)
    if not options.durable:
        return kernel.requests.sessions.open(task, terms, now_ns).summary()
    if not options.name:
        raise KernelError(Errno.EINVAL, f"{call.method}: a durable session needs a name")
    kernel.requests.durable.open(call, core, terms)
    return None


def close(kernel: Kernel, call: Call, options: abi.CtxClose, now_ns: int) -> dict[str, Any] | None:
    session = kernel.requests.sessions.find(call.method, call.needs_task(), options.session)
    if options.forget and session.key is None:
        text = f"session {session.number} is not durable: there is nothing to forget"
        raise KernelError(Errno.EINVAL, f"{call.method}: {text}")
    if session.turn is not None:
        text = f"llm.generate: session {session.number} was closed"
        kernel.requests.end(session.turn, KernelError(Errno.EINTR, text), now_ns)
    kernel.requests.sessions.close(session)
    kernel.cores[session.core].scheduler.kept.forget(session)
    if not options.forget or session.key is None:
        return {}
    kernel.requests.durable.remove(session.key, call)
    return None


def fork(kernel: Kernel, call: Call, options: abi.CtxFork, now_ns: int) -> dict[str, Any]:
    sessions = kernel.requests.sessions
    session = sessions.find(call.method, call.needs_task(), options.session)
    children = sessions.fork(session, options.count, now_ns)
    kept = kernel.cores[session.core].scheduler.kept
    for child in children:
        kept.fork(session, child)
    return {"sessions": [child.number for child in children]}


def commit(kernel: Kernel, call: Call, options: abi.CtxCommit, now_ns: int) -> dict[str, Any] | None:
    sessions = kernel.requests.sessions
    child = sessions.find(call.method, call.needs_task(), options.session)
    parent = sessions.commit(child, now_ns)
    kernel.cores[child.core].scheduler.kept.move(child, parent)
    body = {"session": parent.number}
    if parent.key is None:
        return body
    kernel.requests.durable.store(parent, call, body)
    return None


def list_(kernel: Kernel, call: Call, options: abi.CtxList, now_ns: int) -> dict[str, Any]:
    own = call.task.pid if call.task else 0
    pid = options.pid or own
    if pid:
        kernel.table.find(pid, call.method)
    if own and pid != own:
        raise KernelError(Errno.EPERM, f"{call.method}: task {own} may not see the sessions of task {pid}")
    found = list(islice(kernel.requests.sessions.of(pid, options.after), MAX_LISTED_SESSIONS + 1))
    listed = [_describe(kernel, session, now_ns) for session in found[:MAX_LISTED_SESSIONS]]
    return {"sessions": listed, "more": len(found) > len(listed)}


def _describe(kernel: Kernel, session: Session, now_ns: int) -> dict[str, Any]:
    where, kv_bytes = kernel.cores[session.core].scheduler.kept.standing(session)
    turn = session.turn
    if turn is not None and turn.snapshot is not None:
        where, kv_bytes = "memory", kv_bytes + turn.snapshot.size_bytes
    return session.summary() | {
        "pid": session.task.pid,
        "model": session.model,
        "name": session.name,
        "durable": session.key is not None,
        "window": session.window,
        "dropped_turns": session.dropped_turns,
        "dropped_tokens": session.dropped_tokens,
        "where": "slot" if turn is not None and turn.slot is not None else where,
        "kv_bytes": kv_bytes,
        "idle_s": (now_ns - session.used_ns) / 1e9 if turn is None else 0.0,
    }


def stat(kernel: Kernel, call: Call, options: abi.CtxStat, now_ns: int) -> dict[str, Any]:
    return {"models": [describe_tiers(core) for core in kernel.cores if not core.model.embedding]}


def messages(kernel: Kernel, call: Call, options: abi.CtxMessages, now_ns: int) -> dict[str, Any]:
    session = kernel.requests.sessions.find(call.method, call.needs_task(), options.session)
    left = (session.messages or [])[options.after :]
    page: list[dict[str, Any]] = []
    size_bytes = 0
    for message in left:
        size_bytes += len(pack(message))
        if page and size_bytes > PAGE_BYTES:
            break
        page.append(message)
    answer = None if session.answer is None else {"text": session.answer} | session.chat
    return {"messages": page, "more": len(page) < len(left), "answer": answer}


HANDLERS = {
    "ctx.open": open_,
    "ctx.close": close,
    "ctx.fork": fork,
    "ctx.commit": commit,
    "ctx.list": list_,
    "ctx.stat": stat,
    "ctx.messages": messages,
}
