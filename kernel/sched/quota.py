"""What tasks and groups may use, and have used: looked at when a request comes, and at each of its tokens.

Who calls it: requests.py. What must hold: a request that is refused has changed nothing; one that reaches a limit while
it writes ends well, with what it has; what is in flight is given back once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kernel.abi.codec import show
from kernel.abi.errors import Errno, KernelError
from kernel.objects import Request, Task
from kernel.sched.groups import Groups
from kernel.taskattr import Used

QUOTAS = ("tokens", "turns", "wall_ms", "requests", "kv_tokens")
_MOST = 1 << 53
_METHOD = "llm.generate"


class Quotas:
    """Of a task and of every group above it."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def enter(self, task: Task, now_ns: int) -> None:
        """Count a request in. Raises EDQUOT for what is used up, EAGAIN for what is in flight."""
        for name, limits, used in self._of(task):
            if reached := _used_up(limits, used, now_ns):
                raise KernelError(Errno.EDQUOT, f"{_METHOD}: {name} has used up its quota of {reached}")
            most = limits.get("requests")
            if most is not None and used.requests >= most:
                raise KernelError(Errno.EAGAIN, f"{_METHOD}: {name} has {most} requests in flight, its quota")
        for _, _, used in self._of(task):
            used.turns += 1
            used.requests += 1
            used.first_ns = now_ns if used.first_ns is None else used.first_ns

    def admit(self, request: Request, prompt_tokens: int, kv_tokens: int) -> None:
        """Count a request's prompt, and the room that it may take. Raises EDQUOT or EAGAIN."""
        for name, limits, used in self._of(request.task):
            most = limits.get("kv_tokens")
            if most is not None and used.kv_tokens + kv_tokens > most:
                number = Errno.EDQUOT if kv_tokens > most else Errno.EAGAIN
                text = f"{used.kv_tokens} of {most} tokens of context are in use, and this request may take {kv_tokens}"
                raise KernelError(number, f"{_METHOD}: {name}: {text}")
        request.kv_reserved = kv_tokens
        for _, _, used in self._of(request.task):
            used.kv_tokens += kv_tokens
            used.tokens += prompt_tokens

    def leave(self, request: Request) -> None:
        """It ended."""
        for _, _, used in self._of(request.task):
            used.requests -= 1
            used.kv_tokens -= request.kv_reserved

    def count(self, request: Request, now_ns: int) -> str:
        """Count a token; return which quota is reached with it, "" if none."""
        reached = ""
        for _, limits, used in self._of(request.task):
            used.tokens += 1
            if limits and not reached:
                reached = _spent(limits, used, now_ns)
        return reached

    def move(self, task: Task, path: str) -> None:
        """A task goes to another group, with what it has in flight."""
        for groups, sign in ((self._groups.lineage(task.sched.group), -1), (self._groups.lineage(path), 1)):
            for group in groups:
                group.used.requests += sign * len(task.requests)
                group.used.kv_tokens += sign * sum(request.kv_reserved for request in task.requests)

    def _of(self, task: Task) -> Iterator[tuple[str, Mapping[str, int], Used]]:
        yield f"task {task.pid}", task.sched.quota, task.sched.used
        for group in self._groups.lineage(task.sched.group):
            yield f"group {group.path}", group.quota, group.used


def check_quota(given: Mapping[str, int | None], method: str) -> None:
    """Raise EINVAL for what is no quota."""
    for name, value in given.items():
        if name not in QUOTAS:
            raise KernelError(Errno.EINVAL, f"{method}: quota {show(name)} is not one of {', '.join(QUOTAS)}")
        is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST
        if value is not None and not is_number:
            raise KernelError(Errno.EINVAL, f"{method}: quota {name} is {show(value)}, wanted 0 to {_MOST}")


def _used_up(limits: Mapping[str, int], used: Used, now_ns: int) -> str:
    """Return the quota that lets no other request in, in words."""
    most = limits.get("turns")
    if most is not None and used.turns >= most:
        return f"{most} turns"
    reached = _spent(limits, used, now_ns)
    return f"{limits[reached]} {reached.replace('wall_ms', 'ms')}" if reached else ""


def _spent(limits: Mapping[str, int], used: Used, now_ns: int) -> str:
    most = limits.get("tokens")
    if most is not None and used.tokens >= most:
        return "tokens"
    most = limits.get("wall_ms")
    if most is not None and used.first_ns is not None and now_ns - used.first_ns >= most * 1_000_000:
        return "wall_ms"
    return ""
