"""What fits in memory: layers on a GPU, banks of slots, the longest context. Decided before loading.

Who calls it: llama.py, with what inspect.py gathered and devices.py found; `agentix show`. What must hold: it
is a function of its arguments; what it lets through fits, with the margins below; what it refuses, it refuses
with the sizes and with what would fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kernel.engine.base import CHUNK_TOKENS, Bank, EngineMemoryError, EngineOptions

PAD_TOKENS = 256  # llama.cpp rounds the cells of each sequence up to a multiple of this
HOST_MARGIN_BYTES = 256 << 20  # for the kernel, the agents and what a core holds beside weights and contexts
DEVICE_MARGIN_BYTES = 512 << 20  # for a driver's own buffers, on each device
KV_SHARE = 0.5  # of the host memory free after the weights: the rest is for parked contexts and agents
BANK_RATIO = 4  # between the windows of one bank and the next
MAX_LONG_SLOTS = 4  # of every bank but the first


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes of work space that one context needs for batches of batch_rows rows."""

    base_bytes: int
    bytes_per_token: float  # of the window
    bytes_per_stream: float = 0.0  # of the context's sequences
    batch_rows: int = CHUNK_TOKENS

    def size(self, window_tokens: int, streams: int, rows: int = 1) -> int:
        """Return the bytes for batches of so many rows over so many sequences of so many tokens."""
        grown = self.bytes_per_token * window_tokens + self.bytes_per_stream * streams
        return math.ceil((self.base_bytes + grown) * max(1.0, rows / self.batch_rows))


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model needs, found without reading its weights."""

    name: str
    family: str
    trained_tokens: int
    weight_bytes: int
    layer_bytes: tuple[int, ...]  # weights of each repeating layer
    output_bytes: int  # weights after the last layer, which go to a device first
    kv_bytes_per_token: int  # in all layers; both caches of a sliding-window model
    state_bytes: int  # of a sequence whatever its length: recurrent layers
    work: Work  # without flash attention
    flash_work: Work
    spare_streams: int = 0  # sequences of a context beside those of its slots, as far as the family says


@dataclass(frozen=True, slots=True)
class Device:
    """A device that can hold layers."""

    name: str  # "CUDA0"
    description: str  # "NVIDIA H100 80GB HBM3"
    free_bytes: int
    total_bytes: int
    is_shared: bool = False  # its memory is the host's: a GPU inside the processor


@dataclass(frozen=True, slots=True)
class FreeMemory:
    host_bytes: int
    devices: tuple[Device, ...] = ()  # those that llama.cpp would use; none: everything runs on the CPU


@dataclass(frozen=True, slots=True)
class Fit:
    """What a core is to load and to make."""

    gpu_layers: int  # llama.cpp's n_gpu_layers, which counts what comes after the last layer as one more
    banks: tuple[Bank, ...]
    kv_bytes: int  # that banks in use together may take
    window_tokens: int  # of the longest context
    devices: str  # what runs where, for people: "CPU", "28 of 28 layers on CUDA0 (H100, 71 GiB free)"
    text: str  # all of it in one line, for people


@dataclass(frozen=True, slots=True)
class _Side:
    """One kind of memory with the weights in it: what is left for contexts."""

    room_bytes: int  # after weights and margin
    kv_part: float  # of the contexts' bytes that lie here
    share: float  # of the room that contexts take unless they must have more

    def holds(self, context_bytes: int) -> bool:
        return self.room_bytes >= 0 and context_bytes * self.kv_part <= self.room_bytes

    def limit(self, share: float) -> float:
        return self.room_bytes * share / self.kv_part if self.kv_part else math.inf


@dataclass(slots=True)
class _Sizes:
    """The sizes of contexts of one model under one set of options."""

    facts: ModelFacts
    options: EngineOptions
    streams: Callable[[int], int]
    spare_tokens: int
    work: Work = field(init=False)

    def __post_init__(self) -> None:
        is_flash = self.options.flash_attention == "on"  # unknown yet: count the larger
        self.work = self.facts.flash_work if is_flash else self.facts.work

    def bank(self, slots: int, window_tokens: int) -> int:
        padded = _padded(window_tokens + self.spare_tokens)
        cells = padded * self.facts.kv_bytes_per_token + self.facts.state_bytes
        streams = self.streams(slots)
        rows = padded if self.options.embedding else streams + 1
        return streams * cells + self.work.size(padded, streams, rows)

    def longest(self, room_bytes: float) -> int:
        """Return how many tokens one sequence can have in so many bytes: a multiple of PAD_TOKENS, or 0."""
        few, many = 0, _padded(self.facts.trained_tokens) // PAD_TOKENS + 1  # times PAD_TOKENS: fits, may not
        while many - few > 1:
            middle = (few + many) // 2
            if self.bank(1, middle * PAD_TOKENS) <= room_bytes:
                few = middle
            else:
                many = middle
        return few * PAD_TOKENS

    def most_slots(self, window_tokens: int, room_bytes: float) -> int:
        """Return the most slots of this window in so many bytes, up to those asked for."""
        wanted = self.options.slots
        return next((n for n in range(wanted, 0, -1) if self.bank(n, window_tokens) <= room_bytes), 0)


def decide(
    facts: ModelFacts,
    options: EngineOptions,
    free: FreeMemory,
    streams: Callable[[int], int] | None = None,
    spare_tokens: int = 0,
) -> Fit:
    """Return what to load and make. Raises EngineMemoryError with the sizes and what would fit.

    streams: how many sequences a context for so many slots has, once it is known what lone rows need;
    spare_tokens: added to every window then. `free` is what was free before anything was loaded.

    A GPU takes as many layers as leave room there for the first bank (or one context of the window asked
    for). The contexts' budget is KV_SHARE of what the weights leave of the host's memory, and all that they
    leave on a device. A window that was asked for and does not fit is refused; the model's own is cut to what
    fits. Slots that nobody asked for are halved until they fit.
    """
    slots = options.slots
    while True:
        try:
            return _decide(facts, replace(options, slots=slots), free, streams, spare_tokens)
        except EngineMemoryError:
            if slots == 1 or not options.may_shrink:
                raise
            slots //= 2


def _decide(
    facts: ModelFacts,
    options: EngineOptions,
    free: FreeMemory,
    streams: Callable[[int], int] | None,
    spare_tokens: int,
) -> Fit:
    sizes = _Sizes(facts, options, streams or (lambda slots: slots + facts.spare_streams), spare_tokens)
    most = min(options.window_tokens or facts.trained_tokens, facts.trained_tokens)
    if options.embedding:  # one text at a time, and all of it in one batch
        first_tokens = min(options.window_tokens or options.slot_tokens, most)
        least_bytes = sizes.bank(1, first_tokens)
    else:
        first_tokens = min(options.slot_tokens, most)
        least_bytes = sizes.bank(options.slots, first_tokens)
        if options.window_tokens:
            least_bytes = max(least_bytes, sizes.bank(1, most))
    gpu_layers, sides = _place(facts, options, free, sizes, least_bytes)
    room_bytes = min(side.limit(1.0) for side in sides)
    if least_bytes > room_bytes or any(side.room_bytes < 0 for side in sides):
        raise EngineMemoryError(_refusal(sizes, free, sides[0], least_bytes, first_tokens, most))
    kv_bytes = options.kv_bytes
    if not kv_bytes:
        kv_bytes = max(least_bytes, int(min(side.limit(side.share) for side in sides)))
    elif kv_bytes < least_bytes:
        advice = _advice(sizes, kv_bytes, first_tokens, most)
        raise EngineMemoryError(
            f"contexts of model {facts.name} need {_size(least_bytes)} and --kv-memory allows"
            f" {_size(kv_bytes)}: {advice}"
        )
    kv_bytes = min(kv_bytes, int(room_bytes))
    if options.embedding:
        longest = first_tokens
        banks: tuple[Bank, ...] = (Bank(options.slots, first_tokens, least_bytes),)
    else:
        longest = max(first_tokens, min(most, sizes.longest(kv_bytes)))
        banks = _banks(sizes, first_tokens, longest, kv_bytes)
    devices = _devices_text(facts, free, gpu_layers)
    if options.embedding:
        text = f"{devices}; texts of up to {longest:,} tokens"
    else:
        count = f"{banks[0].slots} contexts of {banks[0].window_tokens:,} tokens"
        text = f"{devices}; {count}, the longest {longest:,}, in up to {_size(kv_bytes)}"
    return Fit(gpu_layers, banks, kv_bytes, longest, devices, text)


def _banks(sizes: _Sizes, first_tokens: int, longest: int, kv_bytes: int) -> tuple[Bank, ...]:
    """Return banks of windows BANK_RATIO apart; the last is the longest, and none is near it."""
    windows = [first_tokens]
    while windows[-1] * BANK_RATIO * 2 <= longest:
        windows.append(windows[-1] * BANK_RATIO)
    if longest > windows[-1]:
        windows.append(longest)
    slots = sizes.options.slots
    banks = [Bank(slots, first_tokens, sizes.bank(slots, first_tokens))]
    beside = kv_bytes - banks[0].size_bytes
    for window in windows[1:]:
        fitting = [n for n in range(2, MAX_LONG_SLOTS + 1) if sizes.bank(n, window) <= beside]
        slots = max(fitting, default=1)
        banks.append(Bank(slots, window, sizes.bank(slots, window)))
    return tuple(banks)


def _place(
    facts: ModelFacts, options: EngineOptions, free: FreeMemory, sizes: _Sizes, least_bytes: int
) -> tuple[int, tuple[_Side, ...]]:
    """Return n_gpu_layers and the sides with the weights laid out so, the host first."""
    everything = len(facts.layer_bytes) + 1
    if not free.devices or options.gpu_layers == 0:
        return 0, _sides(facts, free, sizes, 0)
    if options.gpu_layers > 0:
        count = min(options.gpu_layers, everything)
        sides = _sides(facts, free, sizes, count)
        if not sides[1].holds(least_bytes):
            fitting = _most_layers(facts, free, sizes, least_bytes)
            names = ", ".join(device.name for device in free.devices)
            raise EngineMemoryError(
                f"{count} layers of model {facts.name} do not fit on {names} beside {_size(least_bytes)} of"
                f" contexts: try --gpu-layers {fitting} or --gpu-layers auto"
            )
        return count, sides
    count = _most_layers(facts, free, sizes, least_bytes)
    return count, _sides(facts, free, sizes, count)


def _most_layers(facts: ModelFacts, free: FreeMemory, sizes: _Sizes, least_bytes: int) -> int:
    for count in range(len(facts.layer_bytes) + 1, 0, -1):
        if _sides(facts, free, sizes, count)[1].holds(least_bytes):
            return count
    return 0


def _sides(facts: ModelFacts, free: FreeMemory, sizes: _Sizes, count: int) -> tuple[_Side, ...]:
    """Return the host and, where `count` layers are on devices, these as one side.

    llama.cpp fills devices from the model's end: the output first, then the last layers. A context's cells
    lie where their layer does. With layers on both sides each has work space of its own, counted twice over.
    """
    layers = len(facts.layer_bytes)
    if not count:
        return (_Side(free.host_bytes - HOST_MARGIN_BYTES - facts.weight_bytes, 1.0, KV_SHARE),)
    there = facts.layer_bytes[layers - (count - 1) :]
    there_bytes = facts.output_bytes + sum(there)
    part = len(there) / layers if layers else 1.0
    window = min(sizes.options.slot_tokens, facts.trained_tokens)
    extra = 2 * sizes.work.size(window, sizes.options.slots) if part < 1 else 0
    device_bytes = sum(device.free_bytes - DEVICE_MARGIN_BYTES for device in free.devices)
    # whole layers go to one device or the next: each but one may be left with a gap
    device_bytes -= (len(free.devices) - 1) * max(facts.layer_bytes, default=0)
    is_shared = any(device.is_shared for device in free.devices)
    host_bytes = free.host_bytes - HOST_MARGIN_BYTES - extra
    here_bytes = facts.weight_bytes if is_shared else facts.weight_bytes - there_bytes
    host = _Side(host_bytes - max(0, here_bytes), 1.0 if is_shared else 1 - part, KV_SHARE)
    return host, _Side(device_bytes - there_bytes - extra, part, 1.0)


def _refusal(
    sizes: _Sizes, free: FreeMemory, host: _Side, least_bytes: int, first_tokens: int, most: int
) -> str:
    facts = sizes.facts
    weights = free.host_bytes - HOST_MARGIN_BYTES - host.room_bytes  # those that lie in the host's memory
    contexts = int(least_bytes * host.kv_part)
    needed = weights + contexts + HOST_MARGIN_BYTES
    unit, name = (1 << 30, "GiB") if needed >= 1 << 30 else (1 << 20, "MiB")
    shown = ", ".join(
        f"{what} {count / unit:.1f}"
        for what, count in (("weights", weights), ("contexts", contexts), ("margin", HOST_MARGIN_BYTES))
    )
    advice = _advice(sizes, host.limit(1.0), first_tokens, most)
    return (
        f"model {facts.name} needs {needed / unit:.1f} {name} ({shown}) and"
        f" {free.host_bytes / unit:.1f} are free: {advice}"
    )


def _advice(sizes: _Sizes, room_bytes: float, first_tokens: int, most: int) -> str:
    """Return what would fit in so many bytes for contexts."""
    slots = sizes.most_slots(first_tokens, room_bytes)
    if slots == sizes.options.slots:  # then it is the window that was asked for
        return f"try --window {min(most, sizes.longest(room_bytes))}"
    if slots:
        return f"try --slots {slots}, or a smaller quantisation"
    tokens = sizes.longest(room_bytes)
    if tokens >= PAD_TOKENS:
        return f"try --slots 1 --window {tokens}, or a smaller quantisation"
    return "try a smaller quantisation or a smaller model"


def _devices_text(facts: ModelFacts, free: FreeMemory, gpu_layers: int) -> str:
    if not gpu_layers:
        return "CPU"
    names = ", ".join(
        f"{device.name} ({device.description}, {_size(device.free_bytes)} free)" for device in free.devices
    )
    layers = len(facts.layer_bytes)
    on_device = f"{min(gpu_layers - 1, layers)} of {layers} layers on {names}"
    return on_device if gpu_layers > layers else f"{on_device}, the others on the CPU"


def _padded(tokens: int) -> int:
    return -(-tokens // PAD_TOKENS) * PAD_TOKENS


def _size(count: float) -> str:
    if count >= 1 << 30:
        return f"{count / (1 << 30):.1f} GiB"
    return f"{count / (1 << 20):,.0f} MiB"
