"""Pressure: how much of the time some, or all, of those who want something wait for it.

Who calls it: scheduler.py when that changes; sys.pressure reads it. Pressure stall information (Weiner, Linux 4.20),
with averages that decay continuously instead of by ticks. What must hold: 0 <= full <= some <= 100.
"""

from __future__ import annotations

from math import exp

_WINDOWS_S = {"avg10": 10.0, "avg60": 60.0, "avg300": 300.0}


class Pressure:
    """For one resource."""

    def __init__(self) -> None:
        self._since_ns: int | None = None
        self._is_some = False
        self._is_full = False
        self._some = _Average()
        self._full = _Average()

    def note(self, now_ns: int, waiting: int, running: int) -> None:
        """So many wait from now on, and so many have what they want."""
        self._pass_time(now_ns)
        self._is_some = waiting > 0
        self._is_full = waiting > 0 and not running

    def snapshot(self, now_ns: int) -> dict[str, dict[str, float]]:
        """Return {some, full}, each {avg10, avg60, avg300} in percent and total_s."""
        self._pass_time(now_ns)
        return {"some": self._some.told(), "full": self._full.told()}

    def _pass_time(self, now_ns: int) -> None:
        if self._since_ns is not None and now_ns > self._since_ns:
            seconds = (now_ns - self._since_ns) / 1e9
            self._some.add(seconds, self._is_some)
            self._full.add(seconds, self._is_full)
        self._since_ns = now_ns if self._since_ns is None else max(now_ns, self._since_ns)


class _Average:
    def __init__(self) -> None:
        self._parts = dict.fromkeys(_WINDOWS_S, 0.0)
        self._total_s = 0.0

    def add(self, seconds: float, is_stalled: bool) -> None:
        for name, window_s in _WINDOWS_S.items():
            kept = exp(-seconds / window_s)
            self._parts[name] = self._parts[name] * kept + is_stalled * (1.0 - kept)
        self._total_s += seconds * is_stalled

    def told(self) -> dict[str, float]:
        return {**{name: 100.0 * part for name, part in self._parts.items()}, "total_s": self._total_s}
