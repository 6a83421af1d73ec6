"""What a kernel is told at boot. These defaults are the only ones.

Who makes it: the command line (`agentix up`, `agentix demo`) by way of kernel.__main__.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from kernel.engine.base import F16, EngineOptions

DEFAULT_SLOTS = 24
DEFAULT_PREFILL_TOKENS = 256


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model that the kernel serves, with an LLM core of its own."""

    path: str  # of a GGUF file, or a name that kernel/engine/modelfile.py resolves to one
    name: str = ""  # what calls name it by; "": its file's name
    embedding: bool = False  # it answers llm.embed and nothing else
    choices: str = ""  # path of the file that holds what calibration chose; boot finds this and
    slots: int = 0  # these two in it: see Config; 0: not chosen
    prefill_tokens: int = 0
    fingerprint: str = ""  # of the file, as modelfile.py makes it; boot finds this


@dataclass(frozen=True, slots=True)
class Config:
    models: tuple[ModelConfig, ...]  # the first is served before the kernel serves at all
    name: str = "main"  # of this kernel, when a user runs several
    keep_alive_s: float = 0.0  # a model that nobody asks anything for so long is unloaded; 0: never
    slots: int | None = None  # short contexts resident in each model at once; None: as calibrated, or 24, or what fits
    slot_tokens: int = 2048  # what counts as short: longer ones take slots of longer windows
    window_tokens: int = 0  # the longest context allowed; 0: the model's, as far as memory goes
    kv_bytes: int = 0  # of all resident contexts of a model; 0: a part of the free memory
    threads: int = 0  # of an LLM core; 0: as calibrated, or one for each physical core
    gpu_layers: int = -1  # on the GPU, where there is one; -1: as many as fit
    flash_attention: str = "auto"  # "on", "off", or what decodes faster on this machine
    kv_type: str = F16  # of the keys and values in contexts: "f16", or "q8_0", which needs flash attention
    policy: str = "eevdf"  # of the group "/"
    quantum_tokens: int | None = None  # a turn, of policies that count it in tokens; None: the policy's own
    starve_ms: int = 1800  # without a slot, after which a task is rescued
    gap: float = 2.5  # a step may last so many times its next tokens alone; 0: no limit
    prefill_tokens: int | None = None  # most prompt tokens in a step that decodes; None: as calibrated, or 256
    snapshot_bytes: int = 0  # most bytes of parked contexts of all models; 0: a quarter of the memory free at boot
    swap_bytes: int | None = None  # of contexts on disk; 0: none go there; None: as boot finds room, 8 GiB at most
    swap_folder: str = ""  # of the file for them, which has no name; "": beside the models that were made
    state_folder: str = ""  # of durable sessions; "": agentix/NAME/sessions where the user's state is
    log_bytes: int = 64 << 10  # kept of each task's output

    def slots_of(self, model: ModelConfig) -> int:
        return self.slots or model.slots or DEFAULT_SLOTS

    def prefill_of(self, model: ModelConfig) -> int:
        return self.prefill_tokens or model.prefill_tokens or DEFAULT_PREFILL_TOKENS

    def engine_options(self, model: ModelConfig, extra_buffers: bool) -> EngineOptions:
        """Return what a core of a model is told at its start."""
        return EngineOptions(
            slots=self.slots_of(model),
            slot_tokens=self.slot_tokens,
            window_tokens=self.window_tokens,
            kv_bytes=self.kv_bytes,
            threads=self.threads,
            extra_buffers=extra_buffers,
            flash_attention=self.flash_attention,
            kv_type=self.kv_type,
            gpu_layers=self.gpu_layers,
            embedding=model.embedding,
            choices=model.choices,
            may_shrink=not (self.slots or model.slots),
        )


def read_config(text: str) -> Config:
    """Return the configuration in a JSON map of the fields above. Raises ValueError or TypeError."""
    fields = json.loads(text)
    models = tuple(ModelConfig(**model) for model in fields.pop("models"))
    return Config(models=models, **fields)
