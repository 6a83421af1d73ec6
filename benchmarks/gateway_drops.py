"""10,000 requests through the gateway, 5 % of them dropped midway: everything goes back to what it was.

Clients hang up with a FIN or a RST: before the body is whole, before the first token, after it, and in the middle.
Some have API keys, whose tasks keep contexts and end when the keys are taken back; the others have none. What is held
is compared with what it was after some of each kind have run, so that pools and caches are filled. Segments for parked
contexts are kept for the next who parks: their number may grow a little, as more happen to be parked at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gateway_stand import GatewayStand, Held
from benchmarks.httpstream import Exchange, HttpError, request_bytes
from benchmarks.models import model_path
from benchmarks.peers_dialects import OpenAi
from benchmarks.peers_figures import random_ids
from benchmarks.report import Row, must, only, progress, result_table
from benchmarks.stand import end_on_term

REQUESTS, QUICK_REQUESTS, LEAST_WARM = 10_000, 500, 500
WORKERS, KEYS = 48, 8
DROP_SHARE = 0.05
PROMPTS, ANSWER_TOKENS = (32, 96), 24  # the shorter ones are no conversations: their tasks end with them
SETTLE_S, LOOK_S, SILENCE_S = 60.0, 0.2, 120.0
MEMORY_BAR_MIB, SEGMENTS_SHARE = 16, 0.1
WHEN = ("in the body", "before the first token", "at the first token", "in the middle")
HOW = ("FIN", "RST")


@dataclass(frozen=True, slots=True)
class Plan:
    """One request, and how it ends."""

    ids: tuple[int, ...]
    key: str  # "": none
    when: str  # of WHEN; "": it is not dropped
    how: str


def plans(seed: int, count: int, keys: list[str]) -> Iterator[Plan]:
    source = random.Random(seed)
    for _ in range(count):
        is_dropped = source.random() < DROP_SHARE
        ids = random_ids(source, source.choice(PROMPTS))
        # without a key, a prompt of whole blocks is a conversation, whose task stays for a while
        key = source.choice(keys) if len(ids) > min(PROMPTS) or source.random() < 0.3 else ""
        yield Plan(ids, key, source.choice(WHEN) if is_dropped else "", source.choice(HOW))


class Crowd:
    """Makes requests and counts how they ended."""

    def __init__(self, stand: GatewayStand) -> None:
        self._stand = stand
        self.ended: Counter[str] = Counter()

    def run(self, count: int, seed: int) -> None:
        """Make so many requests with keys of their own; take the keys back."""
        keys = [self._make_key(f"drops-{seed}-{number}") for number in range(KEYS)]
        asyncio.run(self._all(plans(seed, count, [key["key"] for key in keys]), count))
        for key in keys:
            self._call("DELETE", f"/agentix/keys/{key['id']}")

    async def _all(self, coming: Iterator[Plan], count: int) -> None:
        say_at_s = time.monotonic() + 10

        async def worker() -> None:
            nonlocal say_at_s
            for plan in coming:
                self.ended[await self._one(plan)] += 1
                if time.monotonic() > say_at_s:
                    say_at_s = time.monotonic() + 10
                    progress(f"{sum(self.ended.values())} requests, of this part {count}")

        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(worker())

    async def _one(self, plan: Plan) -> str:
        """Make a request; say how it ended."""
        headers = {"Authorization": f"Bearer {plan.key}"} if plan.key else {}
        dialect = OpenAi()
        body = dialect.body(list(plan.ids), ANSWER_TOKENS)
        if plan.when == "in the body":
            return await self._half(body, headers, plan)
        try:
            exchange = await Exchange.post(
                self._stand.address, dialect.path, body, headers=headers, silence_s=SILENCE_S
            )
            end = exchange.close
            try:
                if plan.when == "before the first token":
                    end = exchange.reset if plan.how == "RST" else exchange.close
                    return f"dropped {plan.when}"
                tokens, is_whole = 0, False
                wanted = {"at the first token": 1, "in the middle": ANSWER_TOKENS // 2}.get(plan.when)
                reading = dialect.reading()
                await exchange.begin()
                async for line in exchange.lines():
                    news = reading.line(line)
                    if news.error:
                        return f"error {news.error[:80]}"
                    tokens += news.tokens
                    is_whole = is_whole or news.is_end
                    if wanted is not None and tokens >= wanted:
                        end = exchange.reset if plan.how == "RST" else exchange.close
                        return f"dropped {plan.when}"
                return "whole" if is_whole and tokens == ANSWER_TOKENS else f"cut short at {tokens} tokens"
            finally:
                end()
        except (HttpError, OSError, TimeoutError) as error:
            return f"error {str(error)[:80] or type(error).__name__}"

    async def _half(self, body: Any, headers: Mapping[str, str], plan: Plan) -> str:
        data = request_bytes(self._stand.address, OpenAi.path, json.dumps(body).encode(), headers)
        reader, writer = await asyncio.open_connection(*self._stand.address)
        exchange = Exchange(reader, writer, SILENCE_S)
        writer.write(data[: len(data) - 40])
        (exchange.reset if plan.how == "RST" else exchange.close)()
        return f"dropped {plan.when}"

    def _make_key(self, name: str) -> dict[str, str]:
        return json.loads(self._call("POST", "/agentix/keys", {"name": name}))

    def _call(self, method: str, path: str, body: Any = None) -> bytes:
        host, port = self._stand.address
        headers = {"Authorization": f"Bearer {self._stand.secret}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{host}:{port}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=SILENCE_S) as answer:
            return answer.read()


def settled(stand: GatewayStand, like: Held | None) -> Held:
    """Wait until nothing is in flight and as many tasks and descriptors are left as before; return what is held."""
    end_s = time.monotonic() + SETTLE_S
    while True:
        held = stand.held()
        is_quiet = held.requests == 0 and held.tasks == 1 and held.lent_bytes == 0
        if is_quiet and (like is None or held.descriptors == like.descriptors):
            return held
        if time.monotonic() > end_s:
            return held
        time.sleep(LOOK_S)


def run(quick: bool) -> list[Row]:
    count = QUICK_REQUESTS if quick else REQUESTS
    with GatewayStand(model_path("default")) as stand:
        warm = Crowd(stand)
        warm.run(max(LEAST_WARM, count // 10), seed=1)
        before = settled(stand, None)
        crowd, began_s = Crowd(stand), time.monotonic()
        crowd.run(count, seed=2)
        seconds = time.monotonic() - began_s
        ended_s = time.monotonic()
        after = settled(stand, before)
        settle_s = time.monotonic() - ended_s
    dropped = sum(number for how, number in crowd.ended.items() if how.startswith("dropped"))
    bad = {how: number for how, number in crowd.ended.items() if how.startswith(("error", "cut"))}
    segments_bar = round(before.segments * (1 + SEGMENTS_SHARE))
    rows = [
        only("requests", f"{count} in {seconds:.0f} s, {dropped} dropped ({100 * dropped / count:.1f} %)"),
        only("of these", ", ".join(f"{number} {how}" for how, number in sorted(crowd.ended.items()))[:200]),
        must("requests that were not dropped and did not end well", bad or "none", "none", not bad),
        must("requests in flight", after.requests, "0", after.requests == 0),
        must("tasks beside the gateway", after.tasks - 1, "0", after.tasks == 1),
        must("bytes of parked contexts", after.lent_bytes, "0", after.lent_bytes == 0),
        must("segments free for parking", after.segments, f"<= {segments_bar}", after.segments <= segments_bar),
        only("until all that was so", f"{settle_s:.1f} s"),
    ]  # fmt: skip
    for name, number in after.descriptors.items():
        was = before.descriptors[name]
        rows.append(must(f"descriptors of the {name}", number, f"<= {was}", number <= was))
    for name, size in after.own_bytes.items():
        grown = (size - before.own_bytes[name]) / 2**20
        shown = f"{grown:+.1f} MiB of {size / 2**20:.0f}"
        rows.append(must(f"memory of the {name}", shown, f"<= {MEMORY_BAR_MIB} MiB", grown <= MEMORY_BAR_MIB))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_drops")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REQUESTS} requests")
    options = parser.parse_args()
    end_on_term()
    rows = run(options.quick)
    print(result_table(rows))
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
