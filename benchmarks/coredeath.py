"""kill -9 of the LLM core while agents stream: everyone finishes, every token once, the text as without it.

First a run without a death, then the same prompts with the core killed when about a third of the tokens
are out; texts and token ids are compared, and each agent checks that its pieces joined are the reply's
text and its chunks' tokens the reply's tokens. Then three deaths in a row under a handful of requests:
two make all of them suspects, which then run alone in turn, so the third finds one of them and no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.models import model_path
from benchmarks.report import Row, must, only, progress
from benchmarks.stand import Stand

STREAMS, PROMPT, GENERATED = 32, 128, 96
FEW, FEW_TOKENS, QUICK_TOKENS = 6, 200, 1500  # the default model is quick: it needs more to be caught
MOST_KILLS = 8  # a kill that hits the core between two steps kills nobody's request


def run(quick: bool) -> list[Row]:
    streams, generated = (4, 60) if quick else (STREAMS, GENERATED)
    model = str(model_path("default" if quick else "smollm2-135m", "q8_0"))
    settings = [{"prompt": PROMPT, "generated": generated, "seed": n} for n in range(streams)]
    with Stand(model, slots=streams, window_tokens=512) as stand:
        wanted = _turns(stand.run_crowd("streamer.py", settings, 300))
        progress("the run without a death is done")
        before = stand.stat()["generated_tokens"]
        pids = stand.crowd("streamer.py", settings)
        stand.go(pids)
        third = before + streams * generated // 3
        _wait(lambda: stand.stat()["generated_tokens"] >= third)
        stand.kill_core()
        killed = time.monotonic()
        _wait(lambda: stand.info()["core_restarts"] >= 1 and stand.info()["is_ready"])
        back_s = time.monotonic() - killed
        found = _turns(stand.records(pids, 600))
        stat = stand.stat()
    finished = sum(not turn["error"] for turn in found)
    once = sum(turn["is_once"] for turn in found)
    same = sum(_text(one) == _text(other) for one, other in zip(wanted, found, strict=True))
    return [
        must("streams that finish after kill -9 of the core", f"{finished} of {streams}", "all", finished == streams),
        must("tokens exactly once", f"{once} of {streams}", "all", once == streams),
        must("tokens and text as without it", f"{same} of {streams}", "all", same == streams),
        only("a core serves again after", f"{back_s:.1f} s"),
        only("tokens computed again", stat["recomputed_tokens"]),
        *_three_deaths(quick),
    ]


def _three_deaths(quick: bool) -> list[Row]:
    generated = QUICK_TOKENS if quick else FEW_TOKENS
    settings = [{"prompt": 64, "generated": generated, "seed": n} for n in range(FEW)]
    model = model_path("default" if quick else "smollm2-135m", "q8_0")
    with Stand(model, slots=FEW, window_tokens=2048) as stand:
        wanted = _turns(stand.run_crowd("streamer.py", settings, 300))
        before = stand.stat()["generated_tokens"]
        pids = stand.crowd("streamer.py", settings)
        stand.go(pids)
        _wait(lambda: stand.stat()["generated_tokens"] > before + FEW * 8)
        kills = 0
        while kills < MOST_KILLS and not any(stand.is_ready(pid, "json") for pid in pids):
            told = stand.stat()["generated_tokens"]
            stand.kill_core()
            kills += 1
            _wait(lambda kills=kills: stand.info()["core_restarts"] >= kills and stand.info()["is_ready"])
            # so many new tokens mean that replays are over and all of them are at work again
            _wait(lambda told=told: stand.stat()["generated_tokens"] > told + 2 * FEW)
            progress(f"core killed {kills} times")
        found = _turns(stand.records(pids, 600))
    failed = [index for index, turn in enumerate(found) if turn["error"]]
    names = [f"task {pids[index]}" in found[index]["error"] for index in failed]
    others = [index for index in range(FEW) if index not in failed]
    same = sum(_text(wanted[index]) == _text(found[index]) and found[index]["is_once"] for index in others)
    shown = found[failed[0]]["error"][:90] if failed else "nobody failed"
    is_right = len(failed) == 1 and all(names) and "3 LLM cores died" in shown
    return [
        must(f"{kills} deaths, {FEW} requests: who fails", shown, "one EIO naming it", is_right),
        must("the others, as without deaths", f"{same} of {len(others)}", "all", same == len(others)),
    ]


def _turns(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["turns"][0] for record in records]


def _text(turn: dict[str, Any]) -> tuple[str, list[int]]:
    return turn["text"], turn["tokens"]


def _wait(is_true: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s in vain")
        time.sleep(0.05)
