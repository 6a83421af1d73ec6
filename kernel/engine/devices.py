"""Memory that is free: the host's, within our control group, and that of the devices that ggml knows.

Who calls it: llama.py and inspect.py, inside the LLM core and its like; host_free_bytes also the kernel, for
it loads no library. What must hold: importing this file loads nothing; devices come in llama.cpp's order, and
only those that it would put layers on.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernel.engine.fit import Device, FreeMemory

# enum ggml_backend_dev_type
_CPU, _GPU, _IGPU = 0, 1, 2
_NO_LIMIT = 1 << 60  # version 1 control groups say "no limit" by a number near 2^63


def free_memory(table: Callable[[], list[tuple[str, str, int, int, int]]] | None = None) -> FreeMemory:
    """Return what is free now. Asking a device for the first time starts its driver, which takes memory
    there.

    table: gives (name, description, type, free bytes, total bytes) of every device; ggml's own if left out.
    """
    listed = (table or _ggml_devices)()
    gpus = [_device(row) for row in listed if row[2] == _GPU]
    if not gpus:  # llama.cpp takes a GPU inside the processor only where there is no other
        gpus = [_device(row) for row in listed if row[2] == _IGPU]
    return FreeMemory(host_free_bytes(), tuple(gpu for gpu in gpus if gpu.total_bytes))


def host_free_bytes(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that may still be used: the machine's, or our control group's if less."""
    free = _available_bytes(proc)
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return free
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, limit, used, reclaimable = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit = groups / "memory", "memory.limit_in_bytes"
            used, reclaimable = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):  # a parent's limit holds as well
            free = min(free, _group_free(folder, limit, used, reclaimable))
            if folder == base:
                break
    return max(0, free)


def _available_bytes(proc: Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 0


def _group_free(folder: Path, limit: str, used: str, reclaimable: str) -> int:
    """Return what a group has left; the files that it caches count as free, for Linux drops them first."""
    try:
        most = int((folder / limit).read_text())  # "max" is no number
        if most >= _NO_LIMIT:
            return _NO_LIMIT
        taken = int((folder / used).read_text())
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == reclaimable:
                taken -= int(value)
    except (OSError, ValueError):
        return _NO_LIMIT
    return most - taken


def _device(row: tuple[str, str, int, int, int]) -> Device:
    name, description, kind, free, total = row
    return Device(name, description, free, total, is_shared=kind == _IGPU)


def _ggml_devices() -> list[tuple[str, str, int, int, int]]:
    """Ask ggml, as it came with llama_cpp, which has no Python names for this."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    ggml = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml.so"))

    def function(name: str, result: Any, *arguments: Any) -> Any:
        found = getattr(ggml, f"ggml_backend_dev_{name}")
        found.restype, found.argtypes = result, arguments
        return found

    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    count = function("count", size)
    get = function("get", pointer, size)
    name_of = function("name", ctypes.c_char_p, pointer)
    description_of = function("description", ctypes.c_char_p, pointer)
    kind_of = function("type", ctypes.c_int, pointer)
    memory_of = function("memory", None, pointer, ctypes.POINTER(size), ctypes.POINTER(size))
    rows = []
    for index in range(count()):
        device, free, total = get(index), size(), size()
        kind = kind_of(device)
        if kind != _CPU:
            memory_of(device, ctypes.byref(free), ctypes.byref(total))
        rows.append((
            name_of(device).decode(errors="replace"),
            description_of(device).decode(errors="replace"),
            kind,
            free.value,
            total.value,
        ))
    return rows
