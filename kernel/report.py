"""What the kernel tells of itself: the bodies of sys.info, sys.stat, llm.models and proc.ps.

Who calls it: dispatch.py, core.py and cores.py. It only reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kernel.abi.codec import PROTOCOL_VERSION
from kernel.engine.base import EngineInfo
from kernel.sched.bounds import Bounds
from kernel.states import TaskState

if TYPE_CHECKING:
    from kernel.core import Kernel
    from kernel.cores import Core
    from kernel.objects import Task


def describe(kernel: Kernel, now_ns: int) -> dict[str, Any]:
    """Return the body of sys.info."""
    first, config = kernel.cores.first, kernel.config
    info, scheduler = first.info, first.scheduler
    return {
        "version": PROTOCOL_VERSION,
        "model": first.model.path,
        "description": info.description if info else "",
        "is_ready": scheduler.info is not None,
        "slots": info.banks[0].slots if info else config.slots_of(first.model),
        "window_tokens": info.window_tokens if info else config.window_tokens,
        "threads": info.threads if info else config.threads,
        "policy": kernel.groups["/"].attr.policy,
        "tasks": kernel.table.living(),
        "uptime_s": (now_ns - kernel.born_ns) / 1e9,
        "kernel_pid": kernel.pid,
        "core_pid": first.pid,
        "core_restarts": first.restarts,
        "extra_buffers": first.uses_extra_buffers,
        "flash_attention": info.flash_attention if info else None,
        "kv_type": info.kv_type if info else None,
        "models": [_describe_core(core) for core in kernel.cores],
    }


def _describe_core(core: Core) -> dict[str, Any]:
    info = core.info
    banks = info.banks if info else ()
    return {
        "name": core.model.name,
        "state": core.state.value,
        "core_pid": core.pid,
        "core_restarts": core.restarts,
        "banks": [(bank.slots, bank.window_tokens, bank.size_bytes) for bank in banks],
        "kv_bytes": info.kv_bytes if info else 0,
    }


def describe_model(core: Core) -> dict[str, Any]:
    """Return a row of llm.models."""
    info = core.info
    return {
        "name": core.model.name,
        "path": core.model.path,
        "description": info.description if info else "",
        "family": info.family if info else "",
        "exactness": info.exactness if info else "",
        "state": core.state.value,
        "reason": core.reason,
        "window_tokens": info.window_tokens if info else 0,
        "chat_format": info.chat_format if info else "",
        "takes_tools": info.takes_tools if info else False,
        "is_embedding": core.model.embedding,
        "embedding_width": info.embedding_width if info else 0,
        "devices": info.devices if info else "",
        "slots": info.banks[0].slots if info else 0,
    }


def describe_slots(core: Core) -> dict[str, Any]:
    """Return a model's part of sys.slots."""
    banks, first, held = [], 0, core.scheduler.held_slots()
    for bank in core.info.banks if core.info else ():
        here = range(first, first + bank.slots)
        rows = [
            [slot - first, one.task.pid, one.kv_tokens, "read" if one.kv_tokens < one.prompt_tokens else "write"]
            for slot, one in held.items()
            if slot in here
        ]
        banks.append({"window_tokens": bank.window_tokens, "slots": bank.slots, "held": rows})
        first += bank.slots
    return {"name": core.model.name, "banks": banks}


def describe_tiers(core: Core) -> dict[str, Any]:
    """Return a model's part of ctx.stat."""
    info, store, tiers, held = core.info, core.store, core.tiers, core.scheduler.held_slots().values()
    token_bytes = info.kv_bytes_per_token if info else 0
    disk = tiers.space
    sizes = {
        "slot": (len(held), token_bytes * sum(one.kv_tokens for one in held), info.kv_bytes if info else 0),
        "memory": (store.lent, store.lent_bytes, store.limit_bytes),
        "disk": (tiers.on_disk, disk.used_bytes, disk.size_bytes),
    }
    keys = ("contexts", "bytes", "limit_bytes")
    return {
        "name": core.model.name,
        "token_bytes": token_bytes,
        "tiers": [{"tier": tier, **dict(zip(keys, values, strict=True))} for tier, values in sizes.items()],
        "waiting": tiers.waiting,
        "written_bytes": tiers.written_bytes,
        "read_bytes": tiers.read_bytes,
    }


def statistics(kernel: Kernel) -> dict[str, Any]:
    """Return the body of sys.stat."""
    states: dict[str, int] = {}
    for task in kernel.table.tasks.values():
        for request in task.requests:
            states[request.state.value] = states.get(request.state.value, 0) + 1
    return {
        **_counters(kernel.cores.first),
        "bad_messages": kernel.bad_messages,
        "cut_connections": kernel.cut_connections,
        "throttled": kernel.governor.throttled_ever,
        "sched_s": kernel.step_handling_ns / 1e9,
        "requests": states,
        "models": [{"name": core.model.name, **_counters(core)} for core in kernel.cores],
    }


def _counters(core: Core) -> dict[str, Any]:
    totals, charging = core.scheduler.totals, core.scheduler.charging
    return {
        "steps": totals.steps,
        "core_busy_s": totals.core_busy_ns / 1e9,
        "generated_tokens": totals.generated_tokens,
        "prompt_tokens": totals.prompt_tokens,
        "recomputed_tokens": totals.recomputed_tokens,
        "reused_tokens": totals.reused_tokens,
        "switches": totals.switches,
        "held_preemptions": totals.held_preemptions,
        "restores": totals.restores,
        "failed_restores": totals.failed_restores,
        "dropped_contexts": totals.dropped_contexts,
        "switch_bytes": totals.switch_bytes,
        "switch_s": totals.switch_ns / 1e9,
        "runs": totals.runs,
        "moves": totals.moves,
        "sampling_s": totals.sampling_ns / 1e9,
        "charged_s": charging.work_ns / 1e9,
        "cost_r2": charging.model.r_squared,
        "cost_p95_error": charging.model.p95_error,
        "rescues": totals.rescues,
        "longest_wait_s": core.scheduler.waits.longest_ns / 1e9,
        "paused": core.scheduler.paused,
        "core_restarts": core.restarts,
        "segment_bytes": core.store.held_bytes,
        "snapshot_bytes": core.store.lent_bytes,
    }


def task_rows(kernel: Kernel, now_ns: int) -> list[dict[str, Any]]:
    """Return the rows of proc.ps, in order of birth."""
    rows = []
    bounds = [Bounds(core.scheduler, kernel.groups) for core in kernel.cores]
    for task in kernel.table.tasks.values():
        used, limit = _context(kernel, task)
        number = task.requests[0].core if task.requests else task.last_core
        waits_ns, stage = kernel.cores[number].scheduler.waits.now(task.pid, now_ns)
        is_alive = task.state is not TaskState.ZOMBIE
        row = {
            "pid": task.pid,
            "ppid": task.ppid,
            "name": task.name,
            "has_process": task.has_process,
            "state": task.state.value,
            "waits_for": task.waits_for,
            "priority": task.priority,
            "sched_class": task.sched.sched_class.name.lower(),
            "policy": task.sched.policy,
            "group": task.sched.group,
            "attained_s": task.sched.attained_ns / 1e9,
            "waits_now_s": waits_ns / 1e9,
            "stage": stage.name.lower() if stage else "",
            "bound_s": bounds[number].of(task).seconds if is_alive else 0.0,
            "cpu_percent": 100 * kernel.governor.share(task.pid),
            "throttled": kernel.governor.is_held(task.pid),
            "in_flight": len(task.requests),
            "context_tokens": used,
            "context_limit": limit,
            "age_s": (now_ns - task.born_ns) / 1e9,
            "status": task.status,
            "signal": task.signal,
        }
        rows.append(row | task.usage.summary())
    return rows


def _context(kernel: Kernel, task: Task) -> tuple[int, int]:
    """Return the tokens of a task's largest context in flight, and how many its model allows."""
    largest = max(task.requests, key=lambda request: len(request.tokens), default=None)
    info = kernel.cores[largest.core if largest else 0].info
    return len(largest.tokens) if largest else 0, info.window_tokens if info else 0


def boot_line(name: str, info: EngineInfo) -> str:
    """Return the line that a person sees when a model serves."""
    kind = f"{info.description}; {info.family}, {info.exactness}"
    if info.embedding_width:
        line = f"embeddings of {info.embedding_width} numbers, window {info.window_tokens} tokens"
    else:
        banks = " + ".join(f"{bank.slots} x {bank.window_tokens}" for bank in info.banks)
        attention = "on" if info.flash_attention else "off"
        how = f"flash attention {attention}, KV {info.kv_type}"
        line = f"window {info.window_tokens} tokens, slots {banks}, {how}"
    less = "" if info.extra_buffers else ", without repacked weights (this build crashed with them)"
    return (
        f"model {name} ({kind}) on {info.devices}: {line}, {info.threads} threads, loaded in {info.load_s:.1f} s{less}"
    )
