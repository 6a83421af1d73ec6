"""A small HTTP/1.1 client for streamed answers over asyncio: one request for each connection.

Who uses it: the load generators of peers_load.py and of the gateway's benchmarks. What must hold: it costs little
beside the busy cores that it measures, so it parses no more than it needs; every wait has a deadline; a connection
is closed whatever happens.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

Address = tuple[str, int]

SILENCE_S = 600.0  # no byte for so long: the server is taken for dead
LINE_BYTES = 1 << 20
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a RST and not a FIN


class HttpError(Exception):
    """The answer is an error, or none; the text says what came."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Exchange:
    """A request that has been sent: `lines` are those of its answer's body."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silence_s: float) -> None:
        self._reader = reader
        self._writer = writer
        self._silence_s = silence_s
        self.status = 0
        self.headers: dict[str, str] = {}

    @classmethod
    async def post(
        cls,
        address: Address,
        path: str,
        body: Any,
        *,
        headers: Mapping[str, str] | None = None,
        silence_s: float = SILENCE_S,
    ) -> Exchange:
        """Connect and send a JSON body. Raises OSError, TimeoutError."""
        async with asyncio.timeout(silence_s):
            reader, writer = await asyncio.open_connection(*address, limit=LINE_BYTES)
        try:
            writer.write(request_bytes(address, path, json.dumps(body).encode(), headers or {}))
            async with asyncio.timeout(silence_s):
                await writer.drain()
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer, silence_s)

    async def begin(self) -> None:
        """Read the head of the answer. Raises HttpError for anything but 200, OSError, TimeoutError."""
        line = await self._line()
        parts = line.split(b" ", 2)
        if len(parts) < 2 or not parts[1].isdigit():
            raise HttpError(f"no HTTP answer came, but {line[:60]!r}" if line else "the connection was closed")
        self.status = int(parts[1])
        while (line := await self._line()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.strip().lower()] = value.strip()
        if self.status != 200:
            text = (await self.rest()).decode(errors="replace")
            raise HttpError(f"status {self.status}: {text[:300]}", self.status)

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the body's lines as they come, without their ends. Raises HttpError for a body that is cut short."""
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            while line := await self._line():
                yield line.rstrip()
            return
        held = b""
        while True:
            head = await self._line()
            try:
                size = int(head.split(b";")[0], 16)
            except ValueError:
                raise HttpError(f"the stream was cut: {head[:60]!r} where a chunk's size should be") from None
            if size == 0:
                break
            try:
                async with asyncio.timeout(self._silence_s):
                    data = await self._reader.readexactly(size + 2)
            except asyncio.IncompleteReadError:
                raise HttpError("the stream was cut inside a chunk") from None
            held += data[:-2]
            *whole, held = held.split(b"\n")
            for line in whole:
                yield line.rstrip()
        if held:
            yield held

    async def rest(self) -> bytes:
        """Return the whole body."""
        return b"\n".join([line async for line in self.lines()])

    def close(self) -> None:
        """End the connection: a FIN, whatever the server still has to say."""
        self._writer.close()

    def reset(self) -> None:
        """End the connection with a RST."""
        end = self._writer.get_extra_info("socket")
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()

    async def _line(self) -> bytes:
        try:
            async with asyncio.timeout(self._silence_s):
                return await self._reader.readline()
        except TimeoutError:
            raise HttpError(f"nothing came for {self._silence_s:g} s") from None
        except ValueError:
            raise HttpError(f"a line is longer than {LINE_BYTES} bytes") from None


def request_bytes(address: Address, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A POST of JSON after which the server closes the connection."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n"
    )
    return head.encode("latin-1") + body


async def get(address: Address, path: str, silence_s: float) -> tuple[int, bytes]:
    """Return status and body of a GET. Raises OSError, HttpError, TimeoutError."""
    async with asyncio.timeout(silence_s):
        reader, writer = await asyncio.open_connection(*address, limit=LINE_BYTES)
    exchange = Exchange(reader, writer, silence_s)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address[0]}\r\nConnection: close\r\n\r\n".encode("latin-1"))
        try:
            await exchange.begin()
        except HttpError as error:
            if not error.status:
                raise
            return error.status, b""
        return exchange.status, await exchange.rest()
    finally:
        exchange.close()
