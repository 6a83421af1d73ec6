"""First come, first served, to completion: what llama-server and Ollama do."""

from __future__ import annotations

from kernel.sched.ranked import Ranked


class FirstComeFirstServed(Ranked):
    """First come, first served, to completion; never preempts. What llama-server, Ollama and AIOS do."""
