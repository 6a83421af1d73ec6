"""Misbehaves: burns a processor in pure Python, for ever or for some seconds, and then only sleeps.

    agentix run agents/hog.py [SECONDS]

The kernel must keep the others' share: it is here to be throttled, stopped and killed.
"""

import math
import signal
import sys
import time

from agentix import Agent

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else math.inf
with Agent("hog") as me:
    end = time.monotonic() + seconds
    print(f"hog {me.pid} burns for {seconds:g} s", flush=True)
    turns = 0
    while time.monotonic() < end:
        turns += 1
    print(f"hog {me.pid} behaves again after {turns} turns", flush=True)
    while True:
        signal.pause()
