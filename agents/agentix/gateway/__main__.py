"""The gateway as an agent: started by the kernel as a script, with the capabilities task.create and sched.group.

agentix run --allow task.create --allow sched.group agents/agentix/gateway/__main__.py --http 127.0.0.1:8080
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from agentix.errors import AgentixError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gateway", description="Serves the kernel's models over HTTP."
    )
    parser.add_argument(
        "--http", required=True, type=address, metavar="HOST:PORT", help="port 0: any that is free"
    )
    parser.add_argument(
        "--keys", metavar="FILE", help="TOML: who may call, and how each is scheduled"
    )
    parser.add_argument(
        "--keep-alive", type=float, default=5.0, metavar="SECONDS", help="of silence before a stream says it lives"
    )
    options = parser.parse_args(arguments)
    try:
        from agentix.gateway.server import GatewayError, serve
    except ImportError as error:
        print(f"gateway: {error.name} is missing: pip install 'agentix[http]'", file=sys.stderr)
        return 2
    from agentix.gateway.keys import KeysError

    try:
        asyncio.run(serve(*options.http, options.keys, options.keep_alive))
    except (GatewayError, KeysError, AgentixError) as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    return 0


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, [HOST]:PORT or PORT."""
    host, _, port = text.rpartition(":")
    try:
        number = int(port)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", number


if __name__ == "__main__":
    sys.exit(main())
