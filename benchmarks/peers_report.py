"""The tables and the bars of a comparison of servers. Pure.

Who uses it: peers.py. What must hold: a bar is judged on the figure of all rounds, and one whose load was not run is
left out, never passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.report import Row, at_least, must, only, table

Seen = Mapping[tuple[str, str], Mapping[str, Any]]  # (load, server) -> figures

CLOSED = (
    ("tok/s", "tokens_per_s", "{:.1f}"),
    ("req/s", "requests_per_s", "{:.2f}"),
    ("TTFT p50", "ttft_p50_s", "{:.2f}"),
    ("p95", "ttft_p95_s", "{:.2f}"),
    ("p99", "ttft_p99_s", "{:.2f}"),
    ("short p50", "short_p50_s", "{:.2f}"),
    ("p95", "short_p95_s", "{:.2f}"),
    ("medium p50", "medium_p50_s", "{:.2f}"),
    ("p95", "medium_p95_s", "{:.2f}"),
    ("long p50", "long_p50_s", "{:.1f}"),
    ("p95", "long_p95_s", "{:.1f}"),
)
TURNS = (
    ("turns/s", "requests_per_s", "{:.2f}"),
    ("tok/s", "tokens_per_s", "{:.1f}"),
    ("first TTFT p50", "first_ttft_p50_s", "{:.2f}"),
    ("p95", "first_ttft_p95_s", "{:.2f}"),
    ("later TTFT p50", "later_ttft_p50_s", "{:.2f}"),
    ("p95", "later_ttft_p95_s", "{:.2f}"),
    ("later turn p95", "later_p95_s", "{:.2f}"),
    ("cached tokens", "later_cached_tokens", "{:.0f}"),
)
BOTH = (
    ("requests", "requests", "{}"),
    ("silence", "silence_max_s", "{:.1f}"),
    ("errors", "errors", "{}"),
    ("starved", "starved", "{}"),
    ("cut", "cut_short", "{}"),
    ("load's CPU", "load_cpu_share", "{:.1%}"),
)


def load_tables(seen: Seen) -> str:
    """All figures: one table for closed loads, one for conversations. Times are seconds."""
    turns = {key: made for key, made in seen.items() if _is_turns(key[0])}
    closed = {key: made for key, made in seen.items() if not _is_turns(key[0])}
    made = [_table(part, columns + BOTH) for part, columns in ((closed, CLOSED), (turns, TURNS)) if part]
    return "\n\n".join(made)


def _is_turns(load: str) -> bool:
    return "turns" in load


def _table(seen: Seen, columns: tuple[tuple[str, str, str], ...]) -> str:
    rows = [
        [load, server, *(form.format(made[name]) if name in made else "-" for _, name, form in columns)]
        for (load, server), made in seen.items()
    ]
    return table(rows, ["load", "server", *(heading for heading, _, _ in columns)])


def bars(seen: Seen, names: Mapping[str, str]) -> list[Row]:
    """What was to be reached. `names` are the servers' by part: ours, tuned, turns, bare."""
    ours, tuned, bare, turns = (names[part] for part in ("ours", "tuned", "bare", "turns"))
    rows = [only("llama-server's best flags here", tuned.removeprefix("llama-server "))]
    if ("turns", turns) in seen:
        rows.append(only("its best for conversations", turns.removeprefix("llama-server ")))
    rows += _trials(seen)
    if ("closed32", ours) in seen:
        count = seen["closed32", ours].get("short_requests", 0)
        rows.append(must("32 clients: short requests of agentix", count, ">= 1,000", count >= 1000))
        rows += [
            _more(seen, "closed32", ours, tuned, "tokens_per_s", "32 clients: tok/s", 1.0),
            _less(seen, "closed32", ours, tuned, "short_p95_s", "32 clients: short requests' P95", 2.0),
            _less(seen, "closed32", ours, tuned, "ttft_p95_s", "32 clients: TTFT P95", 2.0),
            _more(seen, "closed32", ours, bare, "tokens_per_s", "32 clients: tok/s, no flags", 1.4),
            _less(seen, "closed32", ours, bare, "ttft_p95_s", "32 clients: TTFT P95, no flags", 5.0),
        ]
    if ("closed128", ours) in seen:
        made = seen["closed128", ours]
        shown = f"{made['errors']}, {made['starved']} of {made['requests']}"
        rows.append(must("128 clients: errors, starved", shown, "0, 0", made["errors"] + made["starved"] == 0))
        if ("closed32", ours) in seen:
            share = made["tokens_per_s"] / seen["closed32", ours]["tokens_per_s"]
            rows.append(at_least("128 clients: tok/s, against 32", share, 0.95, "x"))
    if ("closed6", ours) in seen:
        rows.append(_more(seen, "closed6", ours, tuned, "tokens_per_s", "6 clients: tok/s", 1.25))
    if ("turns", ours) in seen:
        rows.append(_more(seen, "turns", ours, turns, "requests_per_s", "64 conversations: turns/s", 1.0))
    if ("turns07", ours) in seen:
        what = "at 0.7 of capacity: later turns' TTFT P95"
        rows.append(_less(seen, "turns07", ours, turns, "later_ttft_p95_s", what, 1.5))
    errors = sum(made["errors"] for (_, server), made in seen.items() if server == ours)
    starved = sum(made["starved"] for (_, server), made in seen.items() if server == ours)
    cut = sum(made["cut_short"] for (_, server), made in seen.items() if server == ours)
    shown = f"{errors}, {starved}, {cut}"
    rows.append(must("agentix, all loads: errors, starved, cut short", shown, "0, 0, 0", errors + starved + cut == 0))
    return rows


def _trials(seen: Seen) -> list[Row]:
    """What llama-server can do with other flags: the fastest is not the one with the shortest waits."""
    rows = []
    for name, what in (("ttft_p95_s", "TTFT P95"), ("short_p95_s", "short requests' P95")):
        tried = {server: made[name] for (load, server), made in seen.items() if load == "flags" and name in made}
        if tried:
            least = min(tried, key=lambda server: tried[server])
            figure = f"{tried[least]:.2f} s with {least.removeprefix('llama-server ')}"
            rows.append(only(f"its least {what} with any of these flags", figure))
    return rows


def _more(seen: Seen, load: str, ours: str, theirs: str, name: str, what: str, bar: float) -> Row:
    """A row for something of which more is better."""
    return _ratio(what, seen[load, ours].get(name), seen[load, theirs].get(name), bar, False)


def _less(seen: Seen, load: str, ours: str, theirs: str, name: str, what: str, bar: float) -> Row:
    return _ratio(what, seen[load, ours].get(name), seen[load, theirs].get(name), bar, True)


def _ratio(what: str, ours: float | None, theirs: float | None, bar: float, is_less_better: bool) -> Row:
    over, under = (theirs, ours) if is_less_better else (ours, theirs)
    if not over or not under:
        return must(what, f"agentix {ours}, llama-server {theirs}", f">= {bar:g} x", False)
    return at_least(what, over / under, bar, "x", f" ({ours:.2f}, {theirs:.2f})")
