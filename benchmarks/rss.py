"""How much memory a process takes, and the most that it took since we began to look.

Who uses it: benchmarks of what a peer can make the kernel keep. What must hold: a peak between two looks is
not missed where Linux keeps it for us.
"""

from __future__ import annotations

import threading
from pathlib import Path

PAGE_BYTES = 4096
SAMPLE_S = 0.003
_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


def rss_bytes(pid: int) -> int:
    """Return a process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def own_bytes(pid: int) -> int:
    """Return the same without what it shares: segments of parked contexts are counted by themselves."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    return 1024 * sum(int(sizes[name].split()[0]) for name in ("RssAnon", "RssFile"))


class Peak:
    """The most memory that a process takes from now on: Linux's mark, or samples if we may not reset it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._sampler: threading.Thread | None = None
        self.baseline_bytes = self._most_bytes = rss_bytes(pid)
        try:
            Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
        except OSError:
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()

    @property
    def how(self) -> str:
        return "VmHWM" if self._sampler is None else f"sampled every {SAMPLE_S * 1e3:g} ms"

    def growth_bytes(self) -> int:
        """End it; return how far the peak lies above the beginning. Raises OSError: the process is gone."""
        if self._sampler is None:
            self._most_bytes = _peak_bytes(self._pid)
        else:
            self._over.set()
            self._sampler.join()
        return max(0, self._most_bytes - self.baseline_bytes)

    def close(self) -> None:
        self._over.set()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            try:
                self._most_bytes = max(self._most_bytes, rss_bytes(self._pid))
            except OSError:  # the process is gone: whoever asks is told by its own look
                return


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/status has no VmHWM: the process has ended")
