"""20,000 malformed messages over real sockets: a typed error each, and nobody else is disturbed.

An agent process sends, one after the other, random bytes, arrays of the wrong shape, cut-off and oversize
messages, lengths that lie, deep nesting, unknown methods and fields and wrong types, and waits for the error
of each; one in a hundred is of several frames or beyond the transport's limit, which costs the connection:
there the error is the reason why. Meanwhile another agent times null calls, which are compared with those of
the same agent script without the fuzzer.
"""

from __future__ import annotations

from benchmarks.report import Row, at_most, must, only, percentile
from benchmarks.rss import rss_bytes
from benchmarks.stand import Stand

MESSAGES = 20_000
GROWTH_BAR_MIB = 32


def run(quick: bool) -> list[Row]:
    count = 500 if quick else MESSAGES
    with Stand(slots=2, window_tokens=512) as stand:
        (quiet,) = stand.run_crowd("prober.py", [_nulls(500)], 120)
        warm = stand.crowd("fuzzer.py", [{"count": 300, "seed": 1}])  # the allocator's first growth
        stand.go(warm)
        stand.records(warm, 120)
        before = rss_bytes(stand.kernel_pid)
        end = stand.folder / "fuzzing-is-over"
        probers = stand.crowd("prober.py", [_nulls(100) | {"until": str(end)}])
        fuzzers = stand.crowd("fuzzer.py", [{"count": count, "seed": 2}])
        stand.go([*probers, *fuzzers])
        (outcome,) = stand.records(fuzzers, 600)
        end.touch()
        (beside,) = stand.records(probers, 60)
        growth = (rss_bytes(stand.kernel_pid) - before) / (1 << 20)
        counted = stand.stat()["bad_messages"]
        (after,) = stand.run_crowd("streamer.py", [{"prompt": 20, "generated": 8, "seed": 1}], 60)
    errors, others, reasons = outcome["errors"], outcome["others"], outcome["reasons"]
    typed = sum(errors.values()) - errors.get("not typed", 0)
    still = len(after["turns"][0]["tokens"]) == 8
    return [
        must("messages answered by a typed error", f"{typed:,} of {count:,}", "all", typed == count),
        must("answered otherwise", ", ".join(others[:3]) or "none", "none", not others),
        must("answers beyond one each", "yes" if outcome["extra"] else "none", "none", not outcome["extra"]),
        only("errors by name", ", ".join(f"{name} {errors[name]}" for name in sorted(errors))),
        only("connections that it cost", f"{sum(reasons.values())}: {' | '.join(sorted(reasons))}"),
        only("counted by the kernel as no call at all", counted),
        at_most("growth of the kernel's memory", max(0.0, growth), GROWTH_BAR_MIB, "MiB"),
        only("another agent's null call, quiet, p50, p99", _shown(quiet["ns"])),
        only("the same beside the fuzzer", _shown(beside["ns"])),
        must("the model serves afterwards", "yes" if still else "no", "yes", still),
    ]


def _nulls(count: int) -> dict[str, object]:
    return {"what": "null", "count": count, "pause_s": 0.002}


def _shown(times: list[int]) -> str:
    return f"{percentile(times, 0.5) / 1e3:.0f}, {percentile(times, 0.99) / 1e3:.0f} us"
