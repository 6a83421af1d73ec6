"""An engine whose process dies of SIGILL with repacked weights, as a miscompiled llama.cpp does."""

from __future__ import annotations

import os
import signal
from typing import Any

from kernel.engine.fake import FakeEngine


class BrittleEngine(FakeEngine):
    def __init__(self, path: str, *, extra_buffers: bool, **settings: Any) -> None:
        if extra_buffers:
            os.kill(os.getpid(), signal.SIGILL)
        super().__init__(path, extra_buffers=extra_buffers, **settings)
