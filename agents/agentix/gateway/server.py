"""Runs the gateway: an agent of the kernel, and an HTTP server in one event loop.

Who uses it: __main__.py. What must hold: the port is bound before anything is promised; when the kernel goes, the
gateway goes; when it is asked to end, requests get DRAIN_S.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from agentix.aio import AsyncAgent
from agentix.errors import AgentixError
from agentix.gateway.app import make_app
from agentix.gateway.gateway import Gateway
from agentix.gateway.keys import KeyRing
from agentix.gateway.rundir import Door, publish, withdraw
from agentix.gateway.tasks import make_group

DRAIN_S = 5
BACKLOG = 2048
CHUNK_BYTES = 65536


class GatewayError(Exception):
    """The gateway cannot run; the text says why."""


async def serve(host: str, port: int, keys: str | None, keep_alive_s: float) -> None:
    """Serve until asked to end. Raises GatewayError, KeysError, AgentixError."""
    ring = KeyRing(keys)
    listener = bind(host, port)
    async with AsyncAgent("gateway") as agent:
        gateway = Gateway(agent, ring, await make_group(agent), keep_alive_s)
        kernel = gateway.connection.kernel
        config = uvicorn.Config(
            make_app(gateway),
            log_level="critical",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=DRAIN_S,
            server_header=False,
            proxy_headers=False,
        )
        server = Server(config, gateway)
        keepers = [gateway.tasks.sweep(), gateway.tasks.reap(), _watch(agent, server)]
        running = [asyncio.ensure_future(keeper) for keeper in keepers]
        shown = listener.getsockname()
        name = f"[{shown[0]}]" if ":" in shown[0] else shown[0]
        door = Door(f"http://{name}:{shown[1]}", gateway.secret, os.getpid())
        try:
            publish(kernel, door)
            print(f"gateway: {door.url}/v1", flush=True)
            await server.serve(sockets=[listener])
        finally:
            withdraw(kernel, door.pid)
            for task in running:
                task.cancel()
                with suppress(asyncio.CancelledError, AgentixError):
                    await task
            listener.close()


class Server(uvicorn.Server):
    """uvicorn's, with the gateway told that the end comes."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn dies of the signal that ends it; an agent that was asked to end has done well."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.is_closing = True
        await super().shutdown(sockets)


async def _watch(agent: AsyncAgent, server: uvicorn.Server) -> None:
    """End the server when the kernel is gone: receive() waits for ever otherwise, for nobody writes to a gateway."""
    try:
        while True:
            await agent.recv()
    except Exception as error:
        print(f"gateway: {error}", file=sys.stderr, flush=True)
        server.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises GatewayError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        raise GatewayError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener
