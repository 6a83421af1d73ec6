"""32 agents stream through the whole stack, against llama.cpp's own llama-batched-bench.

Ours: 32 agent processes of the SDK, each a prompt of 512 tokens and 108 tokens streamed, one chunk per
token; the rate is of the tokens that arrived in the agents between the moment when the last of them had
its first token and the moment when the first was done, so that all 32 decoded all the time. prefill_tokens
is raised so that all prompts are ready at once, as in the other tool, else the first agents would
decode over longer contexts than theirs. Theirs: -npp 512 -ntg 100 -npl 32 with split KV and the better
of flash attention off and on. The two alternate in one run, and the figure is the ratio of the means.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

from benchmarks import batched
from benchmarks.models import model_path
from benchmarks.report import Row, at_least, must, only, progress
from benchmarks.stand import Stand

AGENTS, PROMPT, GENERATED, WANTED = 32, 512, 108, 100
BAR = 0.92


def run(quick: bool) -> list[Row]:
    agents, prompt, generated, rounds = (4, 128, 28, 1) if quick else (AGENTS, PROMPT, GENERATED, 2)
    wanted = generated - (GENERATED - WANTED)
    model = str(model_path("default" if quick else "smollm2-135m", "q8_0"))
    ours: list[float] = []
    theirs: dict[bool, list[float]] = {False: [], True: []}
    least = generated
    with Stand(
        model,
        slots=agents,
        window_tokens=prompt + generated + 20,
        prefill_tokens=agents * 64,
        policy="fcfs",
    ) as stand:
        threads = stand.info()["threads"]

    def measure_theirs(flash_attention: bool) -> None:
        rates = batched.measure(
            model,
            sequences=agents,
            prompt=prompt,
            generated=wanted,
            threads=threads,
            flash_attention=flash_attention,
        )
        theirs[flash_attention].append(rates.decode)
        progress(f"batched-bench, flash attention {flash_attention}: {rates.decode:.1f} tok/s")

    for flash_attention in (False, True):
        measure_theirs(flash_attention)
    best = max(theirs, key=lambda key: theirs[key][0])
    for _ in range(rounds):
        with Stand(
            model,
            slots=agents,
            window_tokens=prompt + generated + 20,
            prefill_tokens=agents * 64,
            policy="fcfs",
        ) as stand:
            settings = [{"prompt": prompt, "generated": generated, "seed": n} for n in range(agents)]
            records = stand.run_crowd("streamer.py", settings, 600)
        rate, tokens = window_rate([record["turns"][0] for record in records])
        progress(f"whole stack: {rate:.1f} tok/s over {tokens} tokens")
        least = min(least, *(record["turns"][0]["usage"]["generated_tokens"] for record in records))
        ours.append(rate)
        measure_theirs(best)
    alternated = theirs[best][1:]
    flag = "on" if best else "off"
    return [
        only(f"llama-batched-bench, flash attention {flag} (better)", _shown(alternated)),
        only("the same, other flag", _shown(theirs[not best])),
        only(f"{agents} agents streaming, whole stack", _shown(ours)),
        must("tokens of each agent", least, f">= {wanted}", least >= wanted),
        at_least("whole stack / batched-bench", fmean(ours) / fmean(alternated), BAR, "x"),
    ]


def window_rate(turns: list[dict[str, Any]]) -> tuple[float, int]:
    """Return (tokens per second, tokens) of the time in which all of the turns received tokens."""
    begin = max(turn["arrivals"][0][0] for turn in turns)
    end = min(turn["arrivals"][-1][0] for turn in turns)
    if end <= begin:
        raise ValueError("there was no time in which all agents decoded: make them generate more")
    tokens = sum(count for turn in turns for at, count in turn["arrivals"] if begin < at <= end)
    return tokens / ((end - begin) / 1e9), tokens


def _shown(rates: list[float]) -> str:
    return ", ".join(f"{rate:.1f}" for rate in rates) + " tok/s"
