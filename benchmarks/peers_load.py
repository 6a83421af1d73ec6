"""The load generator: clients that wait for their answers, and conversations. One process, one thread.

Who uses it: peers.py, gateway_cost.py and gateway_drops.py; by hand for a server that runs already:

    python -m benchmarks.peers_load 127.0.0.1:8080 agentix closed 32 --seconds 60
    python -m benchmarks.peers_load 127.0.0.1:8080 llama-server turns 64 --seconds 60

What must hold: a server that fails, stalls or closes connections ends up in the figures as errors, never as a hang;
what is counted is what was received.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from benchmarks.httpstream import Address, Exchange, HttpError
from benchmarks.peers_dialects import Dialect, LlamaServer, OpenAi
from benchmarks.peers_figures import MIX, Asked, Record, Run, figures, random_ids, requests
from benchmarks.report import progress

SAY_S = 10.0  # between lines of progress
LOOK_S = 0.05
REFUSED_S = 0.5  # a client that was refused waits so long: it must not spin
TURN_TOKENS, ANSWER_TOKENS = 64, 24
GAP_S = (1.0, 3.0)  # a conversation's pause after an answer

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is: until so much has happened in its window, or its limit."""

    warm_s: float = 10.0
    warm_most_s: float = 240.0  # as long as the warm-up waits for what drive() says
    least_s: float = 60.0
    least_short: int = 0  # requests of the kind "short" that must have ended
    most_s: float = 900.0  # of the window
    drain_s: float = 0.0  # for what is in flight at the end; 0: it is dropped


class Load:
    """The requests of one run."""

    def __init__(self, dialect: Dialect, address: Address) -> None:
        self._dialect = dialect
        self._address = address
        self.records: list[Record] = []
        self.is_over = False

    async def ask(self, asked: Asked, headers: Headers | None = None) -> Record:
        """Make a request and wait for its end. Raises nothing: what went wrong is in the record."""
        record = Record(asked.kind, asked.max_tokens, time.monotonic())
        self.records.append(record)
        prompt = list(asked.ids) if self._dialect.takes_ids else asked.text
        body = self._dialect.body(prompt, asked.max_tokens)
        exchange = None
        try:
            exchange = await Exchange.post(self._address, self._dialect.path, body, headers=headers)
            await exchange.begin()
            record.task = exchange.headers.get("x-agentix-task", "")
            await self._read(exchange, record)
        except (HttpError, OSError, TimeoutError) as error:
            record.error = str(error) or type(error).__name__
        except (ValueError, KeyError) as error:  # no JSON, or not as this server answers
            record.error = f"not an answer: {error!r}"
        finally:
            if exchange is not None:
                exchange.close()
        record.ended_s = time.monotonic()
        if record.error and not record.arrivals:
            await asyncio.sleep(REFUSED_S)
        return record

    async def _read(self, exchange: Exchange, record: Record) -> None:
        reading = self._dialect.reading()
        is_whole = False
        async for line in exchange.lines():
            news = reading.line(line)
            if news.error:
                record.error = news.error
                return
            if news.tokens:
                record.arrivals.append((time.monotonic(), news.tokens))
                record.has_gap = record.has_gap or len(news.ids) != news.tokens
                if not record.has_gap:
                    record.ids.extend(news.ids)
            if news.cached_tokens is not None:
                record.cached_tokens = news.cached_tokens
            is_whole = is_whole or news.is_end
        if not is_whole:
            record.error = "the stream ended before its end was told"


Client = Callable[[Load, int], Awaitable[None]]


async def drive(
    load: Load, client: Client, clients: int, length: Length, name: str, kinds: Iterable[str] = ()
) -> Run:
    """Run the clients; return what came in the window.

    It begins when as many requests have ended as there are clients, and one of each of the kinds: where long requests
    stand back, it takes a while until as many of them are under way as there will be from then on.
    """
    wanted = set(kinds)

    def is_warm() -> bool:
        kinds_ended = {one.kind for one in load.records if one.ended_s is not None}
        return _ended(load) >= clients and wanted <= kinds_ended

    began_s = time.monotonic()
    workers = [asyncio.ensure_future(client(load, number)) for number in range(clients)]
    try:
        end_s = began_s + max(length.warm_s, length.warm_most_s)
        await _until(load, workers, is_warm, began_s + length.warm_s, end_s, f"{name}: warm-up")
        begin_s, cpu_s = time.monotonic(), _cpu_s()

        def has_enough() -> bool:
            return sum(one.kind == "short" for one in load.records if _is_in(one, begin_s)) >= length.least_short

        await _until(load, workers, has_enough, begin_s + length.least_s, begin_s + length.most_s, name)
        end_s, cpu_s = time.monotonic(), _cpu_s() - cpu_s
        load.is_over = True  # clients end with the answer that they wait for
        records = tuple(load.records)
        unended = 0
        if length.drain_s:
            progress(f"{name}: {sum(not worker.done() for worker in workers)} clients end")
            _, late = await asyncio.wait(workers, timeout=length.drain_s)
            unended = len(late)
    finally:
        for worker in workers:
            worker.cancel()
        results = await asyncio.gather(*workers, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return Run(records, begin_s, end_s, cpu_s, unended)


async def _until(
    load: Load,
    workers: list[asyncio.Future[None]],
    is_true: Callable[[], bool],
    after_s: float,
    end_s: float,
    name: str,
) -> None:
    """Wait until it is true and later than `after_s`, or `end_s`, or a client of ours broke."""
    began_s = say_s = time.monotonic()
    while True:
        now_s = time.monotonic()
        if now_s >= end_s or (now_s >= after_s and is_true()):
            return
        if any(worker.done() for worker in workers):
            return
        if now_s - say_s > SAY_S:
            say_s = now_s
            failed = sum(bool(one.error) for one in load.records)
            progress(f"{name}, {now_s - began_s:.0f} s: {_ended(load)} requests, {failed} of them errors")
        await asyncio.sleep(LOOK_S)


def _ended(load: Load) -> int:
    return sum(one.ended_s is not None for one in load.records)


def _is_in(record: Record, begin_s: float) -> bool:
    return record.ended_s is not None and record.ended_s >= begin_s and not record.error


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# -- the two loads ------------------------------------------------------------------------------


async def closed(
    dialect: Dialect,
    address: Address,
    clients: int,
    length: Length,
    *,
    seed: int = 1,
    name: str = "",
    headers: Callable[[int], Headers] | None = None,
) -> Run:
    """So many clients, each asking again as soon as it is answered."""
    asked = requests(seed)

    async def client(load: Load, number: int) -> None:
        while not load.is_over:
            await load.ask(next(asked), headers(number) if headers else None)

    return await drive(Load(dialect, address), client, clients, length, name, [kind.name for kind in MIX])


@dataclass(frozen=True, slots=True)
class Talk:
    """How conversations go."""

    turns: int = 8  # of each, then it begins anew
    period_s: float | None = None  # from one question to the next, on average; None: GAP_S after the answer


async def turns(
    dialect: Dialect,
    address: Address,
    conversations: int,
    length: Length,
    talk: Talk = Talk(),
    *,
    seed: int = 1,
    name: str = "",
) -> Run:
    """So many conversations, each turn with all that was said before. Kinds: "first" and "later".

    What a conversation says and how long it pauses is drawn from its own number, so it is the same for all servers.
    """

    async def client(load: Load, number: int) -> None:
        source = random.Random(f"{seed}-{number}")
        # Some begin in the middle, as if they had gone on for a while: their starts shall not come together.
        lengths: Iterator[int] = (source.randint(1, talk.turns) if not one else talk.turns for one in count())
        await asyncio.sleep(source.uniform(0, talk.period_s or GAP_S[1]))
        while not load.is_over:
            said: tuple[int, ...] = ()
            for turn in range(next(lengths)):
                said += random_ids(source, TURN_TOKENS)
                asked = Asked("later" if turn else "first", said, ANSWER_TOKENS)
                pause_s = source.uniform(*GAP_S) if talk.period_s is None else talk.period_s * source.uniform(0.5, 1.5)
                record = await load.ask(asked)
                if load.is_over:
                    return
                said += tuple(record.ids)  # without a gap, so that it is what the server has seen
                assert record.ended_s is not None
                next_s = (record.ended_s if talk.period_s is None else record.sent_s) + pause_s
                await asyncio.sleep(max(0.0, next_s - time.monotonic()))

    return await drive(Load(dialect, address), client, conversations, length, name)


def main(arguments: list[str]) -> int:
    dialects: dict[str, Dialect] = {"agentix": OpenAi(), "llama-server": LlamaServer()}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers_load", description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("dialect", choices=dialects)
    parser.add_argument("load", choices=("closed", "turns"))
    parser.add_argument("clients", type=int)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--period", type=float, metavar="SECONDS", help="of a conversation's turns")
    options = parser.parse_args(arguments)
    host, _, port = options.address.rpartition(":")
    address, length = (host, int(port)), Length(least_s=options.seconds)
    dialect = dialects[options.dialect]
    if options.load == "closed":
        run = closed(dialect, address, options.clients, length, seed=options.seed, name=options.dialect)
    else:
        talk = Talk(period_s=options.period)
        run = turns(dialect, address, options.clients, length, talk, seed=options.seed, name=options.dialect)
    for name, value in figures([asyncio.run(run)]).items():
        print(f"{name:24} {value:.3f}" if isinstance(value, float) else f"{name:24} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
