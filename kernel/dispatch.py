"""The syscall table: from a message to a handler, from an exception to an error reply.

Who calls it: core.py, for each message. What must hold: every call that can be read ends in exactly one
answer; a handler either returns the reply's body, or None after it deferred the call.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kernel import ctxcalls, schedcalls
from kernel.abi import calls as abi
from kernel.abi.codec import PROTOCOL_VERSION, BadCall, decode_call
from kernel.abi.codec import Call as WireCall
from kernel.abi.errors import Errno, KernelError
from kernel.events import Message
from kernel.objects import Call
from kernel.report import describe, describe_model, describe_slots, statistics
from kernel.states import TaskState

if TYPE_CHECKING:
    from kernel.core import Kernel

Handler = Callable[["Kernel", Call, Any, int], "dict[str, Any] | None"]


def dispatch(kernel: Kernel, message: Message) -> None:
    """Answer a message, now or later."""
    call_id = 0
    try:
        wire = decode_call(message.frame)
        call_id = wire.id
        options = abi.validate(wire.method, wire.body)
    except KernelError as error:
        kernel.refuse_message(message, error, error.call_id if isinstance(error, BadCall) else call_id)
        return
    call = Call(message.peer, message.is_operator, wire.id, wire.method)
    try:
        if wire.method == "sys.hello":
            kernel.calls.check(call)
            body = _hello(kernel, options, message, wire)
        else:
            _introduce(kernel, call, message, wire)
            kernel.calls.check(call)
            if kernel.is_going_down and wire.method != "sys.info":
                raise KernelError(Errno.ESHUTDOWN, f"{wire.method}: the kernel is going down")
            body = HANDLERS[wire.method](kernel, call, options, message.now_ns)
    except KernelError as error:
        kernel.calls.fail(call, error)
        return
    except Exception as bug:  # the caller still gets its one answer, and the terminal says where
        where = traceback.extract_tb(bug.__traceback__)[-1]
        kernel.say(f"bug in {call.method}: {bug!r} at {where.filename}:{where.lineno}")
        text = f"{call.method}: a bug in the kernel: {bug!r}"
        kernel.calls.fail(call, KernelError(Errno.EIO, text))
        return
    if body is not None:
        kernel.calls.reply(call, body)


def _introduce(kernel: Kernel, call: Call, message: Message, wire: WireCall) -> None:
    """Find the task in whose name a call is made. Raises KernelError EPROTO or ESRCH."""
    call.speaker = (message.pid, message.birth)
    call.size_bytes = len(message.frame)
    if wire.deadline_ms is not None:
        call.deadline_ns = message.now_ns + wire.deadline_ms * 1_000_000
    task = None
    if not message.is_operator:
        task = kernel.table.tasks.get(message.pid)
        if task is None or not task.has_said_hello or task.speaker[1] != message.birth:
            raise KernelError(Errno.EPROTO, f"process {message.pid} has not said sys.hello")
        if task.state is TaskState.ZOMBIE:
            raise KernelError(Errno.EPROTO, f"task {message.pid} has ended")
        if message.peer not in task.peers:
            kernel.table.meet(task, message.peer)
    if wire.task is not None:
        task = kernel.table.held_task(wire.task, task.pid if task else -message.peer, wire.method)
        call.is_operator = False  # in its name, with its rights
    if task is not None:
        call.task = task
        task.usage.calls += 1


def _hello(
    kernel: Kernel, options: abi.SysHello, message: Message, wire: WireCall
) -> dict[str, Any]:
    if options.version != PROTOCOL_VERSION:
        text = f"sys.hello: version {options.version}, this kernel speaks {PROTOCOL_VERSION}"
        raise KernelError(Errno.EPROTO, text)
    if wire.task is not None:
        raise KernelError(Errno.EINVAL, f"sys.hello: task {wire.task} needs none: its holder has said it")
    if kernel.is_going_down:
        raise KernelError(Errno.ESHUTDOWN, "sys.hello: the kernel is going down")
    if not message.is_operator:
        kernel.greet(message.pid, message.birth, options.name, message.now_ns)
        kernel.table.meet(kernel.table.tasks[message.pid], message.peer)
    first = kernel.cores.first
    return {
        "version": PROTOCOL_VERSION,
        "pid": message.pid,
        "kernel_pid": kernel.pid,
        "connection": message.peer,
        "model": first.model.path,
        "window_tokens": first.info.window_tokens if first.info else 0,
        "policy": kernel.groups["/"].attr.policy,
    }


def _exit(kernel: Kernel, call: Call, options: abi.ProcExit, now_ns: int) -> dict[str, Any]:
    task = call.needs_task()
    task.exit_declared = options.status
    if not task.has_process:
        kernel.end(task, options.status, None, now_ns)
    return {}


def _kill(kernel: Kernel, call: Call, options: abi.ProcKill, now_ns: int) -> dict[str, Any]:
    task = kernel.table.check_signal(call, options)
    kernel.signal(task, options.signal, now_ns)
    return {}


def _logs(kernel: Kernel, call: Call, options: abi.ProcLogs, now_ns: int) -> dict[str, Any]:
    task = kernel.table.tasks.get(options.pid)
    if task is None:
        raise KernelError(Errno.ESRCH, f"proc.logs: no task {options.pid}")
    if not call.is_operator and (call.task is None or call.task.pid not in (task.pid, task.ppid)):
        raise KernelError(Errno.EPERM, f"proc.logs: task {task.pid} is no child of the caller")
    return {"pid": task.pid, "name": task.name, "text": task.log_text()}


def _log_write(kernel: Kernel, call: Call, options: abi.LogWrite, now_ns: int) -> dict[str, Any]:
    line = options.text.encode(errors="replace") + b"\n"
    call.needs_task().append_log(line, kernel.config.log_bytes)
    return {}


def _shutdown(kernel: Kernel, call: Call, options: Any, now_ns: int) -> None:
    if not call.is_operator:
        raise KernelError(Errno.EPERM, "sys.shutdown: operators only")
    kernel.calls.reply(call, {})
    kernel.shut_down(0, now_ns)


HANDLERS: dict[str, Handler] = {
    "sys.info": lambda k, c, o, now: describe(k, now),
    "sys.stat": lambda k, c, o, now: statistics(k),
    "sys.slots": lambda k, c, o, now: {"models": [describe_slots(core) for core in k.cores]},
    "sys.shutdown": _shutdown,
    "llm.generate": lambda k, c, o, now: k.requests.generate(c, o, now),
    "llm.cancel": lambda k, c, o, now: k.requests.cancel(c, o, now),
    "llm.status": lambda k, c, o, now: k.requests.status(c, o),
    "llm.tokenize": lambda k, c, o, now: k.texts.tokenize(c, o),
    "llm.detokenize": lambda k, c, o, now: k.texts.detokenize(c, o),
    "llm.embed": lambda k, c, o, now: k.texts.embed(c, o, now),
    "llm.models": lambda k, c, o, now: {"models": [describe_model(core) for core in k.cores]},
    "task.create": lambda k, c, o, now: k.create_task(c, o, now),
    "proc.spawn": lambda k, c, o, now: k.table.spawn(c, o),
    "proc.exit": _exit,
    "proc.wait": lambda k, c, o, now: k.table.wait(c, o, now),
    "proc.kill": _kill,
    "proc.ps": lambda k, c, o, now: k.ask_ps(c),
    "proc.logs": _logs,
    "ipc.send": lambda k, c, o, now: k.post.send(c, o, now),
    "ipc.recv": lambda k, c, o, now: k.post.receive(c, o, now),
    "mem.create": lambda k, c, o, now: k.memory.create(c.needs_task(), o),
    "mem.stat": lambda k, c, o, now: k.memory.stat(c.needs_task()),
    "mem.unlink": lambda k, c, o, now: k.memory.unlink(c.needs_task(), o),
    "log.write": _log_write,
    **ctxcalls.HANDLERS,
    **schedcalls.HANDLERS,
}
