"""The dimensions of every model that is made here: small ones of each family, and real shapes.

Who calls it: models.py, and whoever asks what a shape's family is. What must hold: a shape's fields never
change once a file of it was made, since cached files are trusted by their names.

The real shapes are those of published models, or near them where a K-quant needs rows of 256 weights: the
"-wide" ones. The 135M and 0.5B shapes of other families than dense are ours, at that size.
"""

from __future__ import annotations

from dataclasses import dataclass

FAMILIES = ("dense", "moe", "sliding-window", "recurrent", "hybrid", "embedding")


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a model of one of llama.cpp's architectures."""

    name: str
    layers: int
    width: int
    feed_forward: int  # of each expert, where there are experts
    heads: int
    kv_heads: int
    vocab: int
    window_tokens: int
    rope_base: float = 10_000.0
    architecture: str = "llama"
    family: str = "dense"
    vocabulary: str = "pairs"  # a kind of vocabulary.py
    head: int = 0  # width of an attention head; 0: width / heads
    experts: int = 0
    experts_used: int = 0
    sliding_window: int = 0  # tokens that a sliding layer sees
    period: int = 0  # every so many layers one is of the other kind: sees all, or attends at all
    state: int = 0  # width of a recurrent state; of a head of it, where it has heads
    state_heads: int = 0
    pooling: int = 0  # llama.cpp's pooling type: 1 mean, 3 the last token's

    @property
    def head_width(self) -> int:
        return self.head or self.width // self.heads

    @property
    def query_width(self) -> int:
        return self.head_width * self.heads

    @property
    def kv_width(self) -> int:
        return self.head_width * self.kv_heads

    def attends(self, layer: int) -> bool:
        """Whether a layer of a hybrid keeps keys and values: the last of each period does."""
        return (layer + 1) % self.period == 0


def _tiny(name: str, family: str, **fields: object) -> Shape:
    """Return a shape of about four million weights."""
    given: dict[str, object] = {
        "layers": 4,
        "width": 256,
        "feed_forward": 768,
        "heads": 4,
        "kv_heads": 2,
        "vocab": 2048,
        "window_tokens": 4096,
        "vocabulary": "words",
        "family": family,
    }
    return Shape(f"tiny-{name}", **(given | fields))  # type: ignore[arg-type]


_DENSE = (
    Shape("default", 4, 256, 768, 4, 2, 2048, 4096, vocabulary="words"),
    Shape("long", 4, 256, 768, 4, 2, 2048, 65536, vocabulary="words"),
    Shape("default-whole", 4, 256, 768, 4, 2, 2048, 4096, vocabulary="whole"),
    Shape("smollm2-135m", 30, 576, 1536, 9, 3, 49152, 8192),
    Shape("smollm2-135m-whole", 30, 576, 1536, 9, 3, 49152, 8192, vocabulary="whole"),
    Shape("135m-wide", 16, 768, 2048, 12, 4, 49152, 8192),
    Shape("qwen2.5-0.5b", 24, 896, 4864, 14, 2, 151936, 32768),
    Shape("0.5b-wide", 24, 1024, 3584, 16, 2, 151936, 32768),
    Shape("kv-8b", 32, 256, 512, 8, 8, 2048, 8192, head=128, vocabulary="words"),  # an 8B's KV, hardly any weights
    Shape("llama3.2-1b", 16, 2048, 8192, 32, 8, 128256, 32768),
    _tiny("qwen2", "dense", architecture="qwen2", vocabulary="pairs"),
)

_OTHERS = (
    _tiny("qwen3moe", "moe", architecture="qwen3moe", feed_forward=256, head=64, experts=8, experts_used=2),
    _tiny("gemma2", "sliding-window", architecture="gemma2", sliding_window=96, period=2),
    _tiny("gemma3", "sliding-window", architecture="gemma3", sliding_window=64, period=2),
    _tiny(
        "gpt-oss",
        "sliding-window",
        architecture="gpt-oss",
        feed_forward=256,
        head=64,
        experts=4,
        experts_used=2,
        sliding_window=128,
        period=2,
    ),
    _tiny("mamba", "recurrent", architecture="mamba", state=16, state_heads=32),
    _tiny("mamba2", "recurrent", architecture="mamba2", state=64, state_heads=8),
    _tiny("rwkv7", "recurrent", architecture="rwkv7", state=64),
    _tiny("granite", "hybrid", architecture="granitehybrid", state=64, state_heads=8, period=2),
    _tiny("lfm2", "hybrid", architecture="lfm2", period=2),
    _tiny("qwen35", "hybrid", architecture="qwen35", head=64, state=64, state_heads=4, period=2),
    _tiny("bert", "embedding", architecture="bert", vocabulary="wordpieces", window_tokens=512, pooling=1),
    _tiny("qwen3-embedding", "embedding", architecture="qwen3", head=64, pooling=3),
)


def _sized(size: str, vocab: int, window: int, width: int) -> tuple[Shape, ...]:
    """Return one model of about that size for each family that generates and is not dense."""
    heads = width // 64
    small = size == "135m"
    return (
        Shape(
            f"moe-{size}",
            layers=11 if small else 15,
            width=width,
            feed_forward=768,
            heads=heads,
            kv_heads=2,
            vocab=vocab,
            window_tokens=window,
            architecture="qwen3moe",
            family="moe",
            head=64,
            experts=8,
            experts_used=2,
        ),
        Shape(
            f"swa-{size}",
            layers=30,
            width=width,
            feed_forward=2048 if small else 2816,
            heads=4,
            kv_heads=1,
            vocab=vocab,
            window_tokens=window,
            rope_base=1_000_000.0,
            architecture="gemma3",
            family="sliding-window",
            head=width // 4,
            sliding_window=512,
            period=6,
        ),
        Shape(
            f"hybrid-{size}",
            layers=28 if small else 24,
            width=width,
            feed_forward=1536 if small else 2816,
            heads=heads,
            kv_heads=2,
            vocab=vocab,
            window_tokens=window,
            architecture="granitehybrid",
            family="hybrid",
            state=128,
            state_heads=width // 32,
            period=7 if small else 6,
        ),
    )


SHAPES = {
    shape.name: shape
    for shape in (
        *_DENSE,
        *_OTHERS,
        *_sized("135m", 49152, 8192, 512),
        *_sized("0.5b", 151936, 32768, 1024),
    )
}
