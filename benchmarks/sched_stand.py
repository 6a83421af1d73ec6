"""A test stand whose kernel has other systems' schedulers as well: see baselines.py.

Who uses it: sched_live.py. What must hold: as in stand.py.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.stand import BOOT_S, ROOT, Stand, dying_with_us


class BaselineStand(Stand):
    """Boots `python -m benchmarks.baselines`."""

    def _boot(self) -> None:
        command = [sys.executable, "-m", "benchmarks.baselines", "--config-json", json.dumps(self.config)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dying_with_us(),  # noqa: PLW1509 - as in stand.py
            )
        self._until(self._connect, BOOT_S, "the kernel to answer")
        self.wait_core()
