"""Measures how this machine runs a model best: a little at a core's first boot, thoroughly when asked to.

Who calls it: llama.py (choose), in a core with the model loaded; `agentix calibrate`, by way of `python -m
kernel.engine.calibrate MODEL [--fast] [--kv-type q8_0]`. What must hold: at boot it ends within its budget, or
takes the first guess; a choice that is on disk is obeyed, for other modes give other bits.

It prints lines of JSON: {"progress": text}, {"measured": one mode}, {"slots": steps of the chosen one}, and
at the end {"choice": ..., "kv_type": ..., "path": its file} or {"error": text, "status": as in docs/errors.md}.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import llama_cpp

from kernel.engine import calibration, calibrationfile, family, probe
from kernel.engine.bank import SlotBank, prepare
from kernel.engine.base import (
    CHUNK_TOKENS,
    F16,
    KV_TYPES,
    EngineError,
    EngineMemoryError,
    EngineOptions,
)
from kernel.engine.calibration import Choice, Measured
from kernel.engine.calibrationbench import DEEPEST_TOKENS, STEPS, WINDOW_TOKENS, Bench
from kernel.engine.cost import StepCosts
from kernel.engine.devices import free_memory
from kernel.engine.fit import FreeMemory, ModelFacts, decide
from kernel.engine.hostcpu import read_cpu, usable_cores, usable_cpus
from kernel.engine.inspect import gather
from kernel.engine.modelfile import ModelFileError, resolve
from kernel.engine.traits import ContextOptions, Traits

BOOT_BUDGET_S = 3.0
MODE_BUDGET_S = 10.0  # of a thorough measurement, for filling the contexts of one mode
TABLE_ROWS = (1, 8, 32)  # that decode together, in the table of modes
_DEEPEST = DEEPEST_TOKENS // CHUNK_TOKENS  # chunks of a prompt
# A chunk takes at most as long as so many steps: it has as many rows as they, and reads the weights once.
_MOST_STEPS_IN_CHUNK = CHUNK_TOKENS // calibration.ROWS
_MODES_IN_BUDGET = 5
_STATUS_MODEL, _STATUS_MEMORY = 5, 6
_PR_SET_PDEATHSIG = 1

Say = Callable[[dict[str, Any]], None]


def choose(model: llama_cpp.llama_model_p, options: EngineOptions, path: str) -> Choice:
    """Return how to run a loaded model: as the options say, else as the choices file says, else as measured
    now.

    path: of the choices file; "" takes the first guess for what the options leave open, and measures nothing.
    What was measured is kept there at once, or, if another core was faster, what that one kept is returned.
    """
    kept = calibrationfile.read(Path(path)) if path else None
    known = kept or Choice()
    given = calibration.given_flash(options)
    threads = options.threads or known.threads
    flash = known.flash_attention if given is None else given
    if path and not options.embedding and (flash is None or not threads):
        try:
            found = _measure_briefly(model, threads, flash, time.monotonic() + BOOT_BUDGET_S, options)
        except EngineError:  # no context for it, or it cannot decode: the probe says so, in words
            found = Choice()
        if not options.threads:  # what was given is not ours to keep
            known = replace(known, threads=threads or found.threads)
        if given is None:
            known = replace(known, flash_attention=_first_of(flash, found.flash_attention))
        with suppress(OSError):  # a full disk, or no home: the next boot measures again
            known = calibrationfile.write(Path(path), known, _description(model), replace=kept is not None)
    guess = calibration.prior(read_cpu().features, usable_cores())
    return replace(
        known,
        threads=options.threads or known.threads or guess.threads,
        flash_attention=_first_of(given, known.flash_attention, guess.flash_attention),
    )


def _first_of(*values: bool | None) -> bool | None:
    return next((value for value in values if value is not None), None)


def _measure_briefly(
    model: llama_cpp.llama_model_p,
    threads: int,
    flash: bool | None,
    until_s: float,
    options: EngineOptions,
) -> Choice:
    """Return threads and flash attention: the first guess, unless another was measured to be plainly faster.

    threads, flash: what is decided already, 0 and None what is not. After the first steps, which bring the
    weights into memory, nothing is begun that should end after `until_s`, a time of time.monotonic.
    """
    guess = calibration.prior(read_cpu().features, usable_cores())
    guess = replace(
        guess, threads=threads or guess.threads, flash_attention=_first_of(flash, guess.flash_attention)
    )
    traits = probe.first_traits(model)
    rows = (calibration.ROWS,)
    on_gpu = options.gpu_layers != 0 and bool(free_memory().devices)
    with ExitStack() as stack:

        def bench_of(is_flash: bool) -> Bench:
            mode = ContextOptions(guess.threads, is_flash, options.kv_type)
            bench = Bench(model, calibration.ROWS, mode, traits, on_gpu)
            stack.callback(bench.close)
            return bench

        bench = bench_of(bool(guess.flash_attention))
        step = bench.first_step()
        step_s = step.step_s[calibration.ROWS]
        if step.is_disturbed or _MOST_STEPS_IN_CHUNK * step_s > until_s - time.monotonic():
            return guess
        chunk_s = bench.first_chunk_s()
        chunks = int(((until_s - time.monotonic()) / _MODES_IN_BUDGET - STEPS * step_s) / chunk_s)
        if chunks < 1:
            return guess
        began_s = time.monotonic()
        first = bench.measure(min(chunks, _DEEPEST), rows)
        mode_s = time.monotonic() - began_s

        def has_time() -> bool:
            return until_s - time.monotonic() > 2 * mode_s  # another mode may be slower

        found = first
        if flash is None and has_time():
            turned = bench_of(not guess.flash_attention)
            found = calibration.best(first, [turned.measure(min(chunks, _DEEPEST), rows)])
            bench = bench if found is first else turned
        others = []
        for count in () if threads else reversed(_thread_counts()):
            if count != found.threads and has_time():
                bench.set_threads(count)
                others.append(bench.measure(min(chunks, _DEEPEST), rows))
        found = calibration.best(found, others)
        return replace(guess, threads=found.threads, flash_attention=found.flash_attention)


def measure_thoroughly(
    model: llama_cpp.llama_model_p, options: EngineOptions, slot_counts: Sequence[int], is_fast: bool, say: Say
) -> Choice:
    """Measure every mode that the options leave open, then numbers of slots in the best; return the choice.

    slot_counts: those that fit in memory, ascending.
    """
    guess = calibration.prior(read_cpu().features, usable_cores())
    assert guess.flash_attention is not None
    most = slot_counts[-1]
    rows = [count for count in TABLE_ROWS if count <= most]
    modes: list[Measured] = []
    given = calibration.given_flash(options)
    for is_flash in (guess.flash_attention, not guess.flash_attention) if given is None else (given,):
        mode = ContextOptions(guess.threads, is_flash, options.kv_type)
        with closing(_bench(model, most, mode, is_fast)) as bench:
            for threads in sorted(_thread_counts(), key=lambda count: count != guess.threads):
                state = "on" if is_flash else "off"
                say({"progress": f"threads {threads}, flash attention {state}"})
                bench.set_threads(threads)
                modes.append(bench.measure(_chunks(bench), rows))
                say({"measured": _shown(modes[-1])})
    best = calibration.best(modes[0], modes[1:])
    say({"progress": f"up to {most} slots"})
    mode = ContextOptions(best.threads, best.flash_attention, options.kv_type)
    with closing(_bench(model, most, mode, is_fast)) as bench:
        steps = bench.measure(_chunks(bench), slot_counts)
    say({"slots": _shown(steps)})
    slots = calibration.knee(steps.step_s)
    return Choice(
        threads=best.threads,
        flash_attention=best.flash_attention,
        slots=slots,
        prefill_tokens=calibration.prefill_budget(steps.chunk_s, steps.step_s[slots]),
        is_fast=is_fast,
    )


def _chunks(bench: Bench) -> int:
    """Return how many chunks of a prompt fill a mode's contexts within MODE_BUDGET_S."""
    bench.first_step()
    return max(1, min(_DEEPEST, int(MODE_BUDGET_S / bench.first_chunk_s())))


def _thread_counts() -> tuple[int, ...]:
    return calibration.thread_counts(usable_cores(), usable_cpus())


def fitting_slots(facts: ModelFacts, options: EngineOptions, free: FreeMemory) -> list[int]:
    """Return which numbers of slots can be measured and served. Raises EngineMemoryError when none can."""
    found = []
    for slots in calibration.SLOT_COUNTS:
        wanted = replace(options, slots=slots, slot_tokens=max(options.slot_tokens, WINDOW_TOKENS))
        try:
            decide(facts, wanted, free)
        except EngineMemoryError:
            if not found:
                raise
            break
        found.append(slots)
    return found


def _bench(model: llama_cpp.llama_model_p, slots: int, options: ContextOptions, is_fast: bool) -> Bench:
    """Return a bench in one mode, whose lone rows decode as a core would have them, or as --fast has them."""
    traits = probe.first_traits(model)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    costs = StepCosts(llama_cpp.llama_model_size(model), 0)

    def make_bank(traits: Traits) -> SlotBank:
        return SlotBank(model, probe.MOST_ROWS, probe.WINDOW_TOKENS, options, traits, costs)

    probe.probe(make_bank, traits, vocab)
    if is_fast:
        traits.least_rows = traits.row_step = 1
    return Bench(model, slots, options, traits, bool(free_memory().devices))


def _shown(mode: Measured) -> dict[str, Any]:
    return {
        "threads": mode.threads,
        "flash_attention": mode.flash_attention,
        "depth_tokens": mode.depth,
        "prefill_tokens_s": CHUNK_TOKENS / mode.chunk_s,
        "decode_tokens_s": mode.decode_rates(),
        "step_s": dict(mode.step_s),
        "is_disturbed": mode.is_disturbed,
    }


def _description(model: llama_cpp.llama_model_p) -> str:
    buffer = ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(model, buffer, len(buffer))
    return buffer.value.decode(errors="replace")


def calibrate(name: str, kv_type: str, is_fast: bool, say: Say) -> None:
    """Load a model, measure, and keep the choice. Raises ModelFileError and EngineError."""
    file = resolve(name)
    path, options = str(file.path), EngineOptions(kv_type=kv_type)
    prepare()
    llama_cpp.llama_backend_init()
    facts = gather(path, kv_type)
    if facts.family == family.EMBEDDING:
        raise EngineError(f"model {name} computes embeddings: there is nothing to choose for it")
    free = free_memory()
    slot_counts = fitting_slots(facts, options, free)
    say({"progress": f"loading {file.path.name}"})
    wanted = llama_cpp.llama_model_default_params()
    wanted.n_gpu_layers = decide(facts, options, free).gpu_layers
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), wanted)
    if not model:
        raise EngineError(f"model {name}: llama.cpp cannot load this file as a GGUF model")
    choice = measure_thoroughly(model, options, slot_counts, is_fast, say)
    kept_at = calibrationfile.choices_path(file.path, kv_type)
    calibrationfile.write(kept_at, choice, path, replace=True)
    say({"choice": asdict(choice), "kv_type": kv_type, "path": str(kept_at)})


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m kernel.engine.calibrate")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--kv-type", choices=KV_TYPES, default=F16)
    parser.add_argument("model", metavar="MODEL")
    chosen = parser.parse_args(arguments)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    try:
        calibrate(chosen.model, chosen.kv_type, chosen.fast, say)
    except (ModelFileError, EngineError) as error:
        status = _STATUS_MEMORY if isinstance(error, EngineMemoryError) else _STATUS_MODEL
        say({"error": str(error), "status": status})
        return status
    except OSError as error:
        say({"error": f"the choice cannot be kept: {error}", "status": 1})
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # no destructors: llama.cpp's may wait for threads
