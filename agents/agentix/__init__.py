"""agentix: what an agent is written with. `from agentix import Agent` is all that most agents need.

Who imports it: agents, and nothing of the kernel's. What must hold: importing it loads neither zmq nor numpy nor
llama_cpp, so that an agent starts in the time Python takes; the names below are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentix import errors
from agentix.agent import Agent, Task
from agentix.calls import Exit, Message, Reply
from agentix.errors import AgentixError, KernelGone, NoKernel

if TYPE_CHECKING:
    from agentix.aio import AsyncAgent as AsyncAgent

__all__ = [
    "Agent",
    "AgentixError",
    "AsyncAgent",
    "Exit",
    "KernelGone",
    "Message",
    "NoKernel",
    "Reply",
    "Task",
    "errors",
]


def __getattr__(name: str) -> object:
    if name == "AsyncAgent":  # asyncio takes longer to import than all the rest
        from agentix.aio import AsyncAgent

        return AsyncAgent
    raise AttributeError(f"module 'agentix' has no attribute {name!r}")
