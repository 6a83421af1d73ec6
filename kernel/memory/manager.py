"""mem.create, mem.stat, mem.unlink: the segments that belong to a task.

Who calls it: dispatch.py, and core.py when a task ends. What must hold: names are a task's own, what a
task holds stays under its limit, and all of it goes with the task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernel.abi.calls import MemCreate, MemUnlink
from kernel.abi.errors import Errno, KernelError
from kernel.effects import DropSegment, Effect, MakeSegment
from kernel.limits import MAX_TASK_MEMORY_BYTES, MAX_TASK_SEGMENTS
from kernel.objects import Task


class MemoryManager:
    """Named segments by task."""

    def __init__(self, next_segment: Callable[[], int], emit: Callable[[Effect], None]) -> None:
        self._next_segment = next_segment
        self._emit = emit
        self._segments: dict[int, dict[str, tuple[int, int]]] = {}  # pid -> name -> (segment, bytes)

    def create(self, task: Task, options: MemCreate) -> dict[str, Any]:
        """Raises KernelError EEXIST or ENOMEM."""
        owned = self._segments.setdefault(task.pid, {})
        if options.name in owned:
            text = f"mem.create: task {task.pid} already has a segment {options.name!r}"
            raise KernelError(Errno.EEXIST, text)
        used = sum(size for _, size in owned.values())
        if used + options.size_bytes > MAX_TASK_MEMORY_BYTES or len(owned) >= MAX_TASK_SEGMENTS:
            text = (
                f"mem.create: {options.size_bytes} bytes do not fit: task {task.pid} holds {used} of"
                f" {MAX_TASK_MEMORY_BYTES} bytes in {len(owned)} of {MAX_TASK_SEGMENTS} segments"
            )
            raise KernelError(Errno.ENOMEM, text)
        segment = self._next_segment()
        owned[options.name] = (segment, options.size_bytes)
        self._emit(MakeSegment(segment, options.size_bytes, is_for_core=False, owner=task.speaker))
        return {"name": options.name, "size_bytes": options.size_bytes, "segment": segment}

    def stat(self, task: Task) -> dict[str, Any]:
        owned = self._segments.get(task.pid, {})
        rows = [
            {"name": name, "size_bytes": size, "segment": segment}
            for name, (segment, size) in sorted(owned.items())
        ]
        used = sum(size for _, size in owned.values())
        return {"segments": rows, "used_bytes": used, "limit_bytes": MAX_TASK_MEMORY_BYTES}

    def unlink(self, task: Task, options: MemUnlink) -> dict[str, Any]:
        """Raises KernelError ENOENT."""
        entry = self._segments.get(task.pid, {}).pop(options.name, None)
        if entry is None:
            text = f"mem.unlink: task {task.pid} has no segment {options.name!r}"
            raise KernelError(Errno.ENOENT, text)
        self._emit(DropSegment(entry[0]))
        return {}

    def release(self, pid: int) -> None:
        """A task ended: drop all it held."""
        for segment, _ in self._segments.pop(pid, {}).values():
            self._emit(DropSegment(segment))
