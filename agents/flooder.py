"""Misbehaves: sends calls as fast as it can and never reads an answer.

    agentix run agents/flooder.py [CALLS]

It goes around Agent, which would read. The kernel must answer the others and not keep answers without bound.
"""

import sys

from agentix import calls
from agentix.agent import chosen_kernel
from agentix.client import PROTOCOL_VERSION
from agentix.mux import Mux
from agentix.transport import Transport

count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
wire, mux = Transport("agent", chosen_kernel()), Mux()
flood = [calls.generate("flood", {"max_tokens": 1}), calls.ps()]
call = calls.hello("flooder", PROTOCOL_VERSION)
for number in range(count):
    inflight, frame = mux.start(call)
    mux.withdraw(inflight)
    while not wire.send(frame):
        if wire.wait(0.01):  # our own queue is full: the kernel has stopped reading us, or has cut us off
            sys.exit(1)
    call = flood[number % 2]
print(f"flooder sent {count} calls", flush=True)
