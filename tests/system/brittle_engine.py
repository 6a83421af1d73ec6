"""An engine whose process dies of SIGILL with repacked weights, as a miscompiled llama.cpp does."""

from __future__ import annotations

import os
import signal

from kernel.engine.base import EngineOptions
from kernel.engine.fake import FakeEngine


class BrittleEngine(FakeEngine):
    def __init__(self, path: str, options: EngineOptions) -> None:
        if options.extra_buffers:
            os.kill(os.getpid(), signal.SIGILL)
        super().__init__(path, options)
