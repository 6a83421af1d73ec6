"""What the kernel tells of itself: the bodies of sys.info, sys.stat and proc.ps.

Who calls it: dispatch.py and core.py. It only reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel.abi.codec import PROTOCOL_VERSION
from kernel.engine.base import EngineInfo

if TYPE_CHECKING:
    from kernel.core import Kernel


def describe(kernel: Kernel, now_ns: int) -> dict[str, Any]:
    """Return the body of sys.info."""
    info, scheduler = kernel.last_info, kernel.scheduler
    return {
        "version": PROTOCOL_VERSION,
        "model": kernel.config.model,
        "description": info.description if info else "",
        "is_ready": scheduler.info is not None,
        "slots": info.slots if info else kernel.config.slots,
        "window_tokens": info.window_tokens if info else kernel.config.window_tokens,
        "threads": info.threads if info else kernel.config.threads,
        "policy": scheduler.policy_name,
        "quantum_tokens": scheduler.quantum_tokens,
        "tasks": kernel.table.living(),
        "uptime_s": (now_ns - kernel.born_ns) / 1e9,
        "kernel_pid": kernel.pid,
        "core_pid": kernel.core_pid,
        "core_restarts": kernel.core_restarts,
        "extra_buffers": kernel.uses_extra_buffers,
        "flash_attention": info.flash_attention if info else None,
    }


def statistics(kernel: Kernel) -> dict[str, Any]:
    """Return the body of sys.stat."""
    totals = kernel.scheduler.totals
    states: dict[str, int] = {}
    for task in kernel.table.tasks.values():
        for request in task.requests:
            states[request.state.value] = states.get(request.state.value, 0) + 1
    return {
        "steps": totals.steps,
        "core_busy_s": totals.core_busy_ns / 1e9,
        "generated_tokens": totals.generated_tokens,
        "prompt_tokens": totals.prompt_tokens,
        "recomputed_tokens": totals.recomputed_tokens,
        "switches": totals.switches,
        "held_preemptions": totals.held_preemptions,
        "restores": totals.restores,
        "failed_restores": totals.failed_restores,
        "dropped_contexts": totals.dropped_contexts,
        "switch_bytes": totals.switch_bytes,
        "switch_s": totals.switch_ns / 1e9,
        "core_restarts": kernel.core_restarts,
        "bad_messages": kernel.bad_messages,
        "cut_connections": kernel.cut_connections,
        "throttled": kernel.governor.throttled_ever,
        "segment_bytes": kernel.store.held_bytes,
        "snapshot_bytes": kernel.store.lent_bytes,
        "requests": states,
    }


def task_rows(kernel: Kernel, now_ns: int) -> list[dict[str, Any]]:
    """Return the rows of proc.ps, in order of birth."""
    rows = []
    for task in kernel.table.tasks.values():
        row = {
            "pid": task.pid,
            "ppid": task.ppid,
            "name": task.name,
            "has_process": task.has_process,
            "state": task.state.value,
            "waits_for": task.waits_for,
            "priority": task.priority,
            "cpu_percent": 100 * kernel.governor.share(task.pid),
            "throttled": kernel.governor.is_held(task.pid),
            "in_flight": len(task.requests),
            "age_s": (now_ns - task.born_ns) / 1e9,
            "status": task.status,
            "signal": task.signal,
        }
        rows.append(row | task.usage.summary())
    return rows


def boot_line(info: EngineInfo) -> str:
    """Return the line that a person sees when the model serves."""
    attention = "on" if info.flash_attention else "off"
    how = "" if info.extra_buffers else ", without repacked weights (this build crashed with them)"
    return (
        f"model {Path(info.model).name} ({info.description}): {info.slots} slots of"
        f" {info.window_tokens} tokens, {info.threads} threads, flash attention {attention}, loaded"
        f" in {info.load_s:.1f} s{how}"
    )
