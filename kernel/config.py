"""What a kernel is told at boot. These defaults are the only ones.

Who makes it: the command line (`agentix up`, `agentix demo`) by way of kernel.__main__.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Config:
    model: str  # path of a GGUF file
    name: str = "main"  # of this kernel, when a user runs several
    slots: int = 8  # sequences resident in the model at once
    window_tokens: int = 2048  # of one sequence
    threads: int = 0  # of the LLM core; 0: one for each physical core
    flash_attention: str = "auto"  # "on", "off", or what decodes faster on this kind of CPU
    policy: str = "rr"
    quantum_tokens: int = 32  # a time slice, where the policy has one
    prefill_tokens: int = 128  # most prompt tokens in a step that also decodes
    snapshot_bytes: int = 0  # most bytes of parked contexts; 0: half of the memory free at boot
    log_bytes: int = 64 << 10  # kept of each task's output
