"""Clients that misbehave, each kind in a process of its own beside honest ones.

Who runs it: gateway_attack.py, as `python -m benchmarks.gateway_attackers NAME PORT SECONDS`; it prints how its
connections ended, as JSON. What must hold: an attacker takes little of the CPU itself: that is not what is measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from benchmarks.httpstream import Address, Exchange, HttpError, get, request_bytes
from benchmarks.peers_dialects import OpenAi
from benchmarks.peers_figures import random_ids

PATH = "/v1/completions"
ANSWER_S = 20.0
BLOCK = b"[" * 65536
Ended = Counter[str]


class Attack:
    """What an attacker knows: where to, until when, and how its connections ended."""

    def __init__(self, address: Address, seconds: float) -> None:
        self.address = address
        self.until_s = time.monotonic() + seconds
        self.ended: Ended = Counter()
        self.source = random.Random(1)

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until_s

    async def send(self, parts: list[bytes], pause_s: float = 0.0) -> None:
        """Send parts over a connection of its own with pauses between, then note what was answered."""
        writer = None
        try:
            reader, writer = await asyncio.open_connection(*self.address)
            for part in parts:
                if self.is_over or reader.at_eof():
                    break
                writer.write(part)
                async with asyncio.timeout(ANSWER_S):
                    await writer.drain()
                await asyncio.sleep(pause_s)
            if self.is_over and pause_s:
                self.ended["still open when we left"] += 1
                return
            async with asyncio.timeout(ANSWER_S):
                line = await reader.readline()
            self.ended[line.decode("latin-1").strip()[:60] or "closed without an answer"] += 1
        except TimeoutError:
            self.ended["no answer"] += 1
        except OSError as error:
            self.ended[type(error).__name__] += 1
        finally:
            if writer is not None:
                writer.close()

    async def repeat(self, make: Callable[[], list[bytes]], clients: int, rest_s: float, pause_s: float = 0.0) -> None:
        """So many clients, each again and again with a rest."""

        async def client() -> None:
            while not self.is_over:
                await self.send(make(), pause_s)
                await asyncio.sleep(rest_s)

        await asyncio.gather(*(client() for _ in range(clients)))


async def slow_heads(attack: Attack) -> None:
    """200 clients send a head, some bytes a second."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n" + "".join(f"X-{n}: y\r\n" for n in range(200))
    await attack.repeat(lambda: [bytes([byte]) for byte in head.encode()], 200, 0.1, 0.5)


async def slow_bodies(attack: Attack) -> None:
    """200 clients send a body, some bytes a second."""
    data = request_bytes(attack.address, PATH, b" " * 4096, {})
    head, body = data[:-4096], data[-4096:]
    await attack.repeat(lambda: [head, *(bytes([byte]) for byte in body)], 200, 0.1, 0.5)


async def huge_bodies(attack: Attack) -> None:
    """4 clients send 16 MiB each time, announced or in chunks."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    whole = [(head + f"Content-Length: {256 * len(BLOCK)}\r\n\r\n").encode(), *[BLOCK] * 256]
    chunk = f"{len(BLOCK):x}\r\n".encode() + BLOCK + b"\r\n"
    chunked = [(head + "Transfer-Encoding: chunked\r\n\r\n").encode(), *[chunk] * 256]
    await attack.repeat(lambda: attack.source.choice((whole, chunked)), 4, 1.0)


async def endless_heads(attack: Attack) -> None:
    """8 clients send heads of 1 MiB."""
    line = b"X-Long: " + b"y" * 65000 + b"\r\n"
    await attack.repeat(lambda: [f"GET {PATH} HTTP/1.1\r\n".encode(), *[line] * 16], 8, 0.5)


async def garbage(attack: Attack) -> None:
    """20 clients send what is no HTTP."""
    await attack.repeat(lambda: [attack.source.randbytes(500) + b"\r\n\r\n"], 20, 0.5)


async def bad_bodies(attack: Attack) -> None:
    """10 clients send JSON that is deep, wrong or none."""
    bodies = [
        b"[" * 50_000, b'{"prompt":' * 20_000, b"\xff\xfe" * 500, b"{}", b'{"prompt": {"a": 1}}', b"null",
        b'{"prompt": [1, 2, "x"], "max_tokens": "many"}', b'{"prompt": "x", "max_tokens": -1e308}',
        b'{"prompt": [' + b"9" * 4000 + b"]}", b'{"prompt": "x", "model": "' + b"m" * 100_000 + b'"}',
    ]  # fmt: skip
    await attack.repeat(lambda: [request_bytes(attack.address, PATH, attack.source.choice(bodies), {})], 10, 0.5)


async def connections(attack: Attack) -> None:
    """400 connections that are opened, left alone, and opened again."""
    head = b"GET /healthz HTTP/1.1\r\n"
    await attack.repeat(lambda: [head, *[b""] * 1000], 400, 0.5, 1.0)


async def long_streams(attack: Attack, reads: bool = True) -> None:
    """4 clients ask for long answers, and read them: what an honest neighbour costs."""
    await asyncio.gather(*(_long_stream(attack, reads) for _ in range(4)))


async def deaf(attack: Attack) -> None:
    """The same, and never read."""
    await long_streams(attack, reads=False)


async def _long_stream(attack: Attack, reads: bool) -> None:
    dialect = OpenAi()
    while not attack.is_over:
        body = dialect.body(list(random_ids(attack.source, 64)), 512)
        exchange = await Exchange.post(attack.address, PATH, body)
        try:
            async with asyncio.timeout(max(0.0, attack.until_s - time.monotonic())):
                if not reads:
                    await asyncio.Event().wait()
                await exchange.begin()
                async for _ in exchange.lines():
                    pass
            attack.ended["whole"] += 1
        except TimeoutError:
            attack.ended["still streaming when we left"] += 1
        except (HttpError, OSError) as error:
            attack.ended[str(error)[:60]] += 1
        finally:
            exchange.reset()


async def polls(attack: Attack) -> None:
    """10 clients ask for the health and the metrics, each five times a second."""

    async def client(path: str) -> None:
        while not attack.is_over:
            with suppress(OSError, HttpError, TimeoutError):
                status, _ = await get(attack.address, path, ANSWER_S)
                attack.ended[f"{path} {status}"] += 1
            await asyncio.sleep(0.2)

    await asyncio.gather(*(client(path) for path in ("/healthz", "/metrics") * 5))


ATTACKS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    "slow_heads": slow_heads,
    "slow_bodies": slow_bodies,
    "huge_bodies": huge_bodies,
    "endless_heads": endless_heads,
    "garbage": garbage,
    "bad_bodies": bad_bodies,
    "connections": connections,
    "polls": polls,
    "deaf": deaf,
}
BESIDE = {"deaf": "long_streams"}  # what an attack is compared with; others: with nobody beside
HONEST = {"long_streams": long_streams}


async def main(name: str, port: int, seconds: float) -> None:
    attack = Attack(("127.0.0.1", port), seconds)
    await (ATTACKS | HONEST)[name](attack)
    print(json.dumps({"ended": attack.ended, "cpu_s": sum(os.times()[:2])}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
