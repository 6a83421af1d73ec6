"""The `agentix` command: reads the arguments, connects, runs one command, and ends with its status.

What must hold: whatever goes wrong is one sentence on stderr and a status of exits.py, never a traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable

from agentix.agent import chosen_kernel
from agentix.cli.exits import MEANING, CommandError, Exit, exit_of
from agentix.errors import AgentixError, InvalidValue

EPILOG = "exit status:\n" + "\n".join(f"  {status:>3}  {text}" for status, text in MEANING.items())
EPILOG += "\n  `run` and `wait` end with the agent's own status, or 128 + the signal that killed it\n"
EPILOG += "\n$AGENTIX_KERNEL, or --kernel, names the kernel when a user runs several"
HELLO_S = 30.0


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(argv)
    try:
        options.kernel = options.kernel or chosen_kernel()
        return int(run_command(options))
    except CommandError as error:
        status, text = error.status, str(error)
    except AgentixError as error:
        status, text = exit_of(error), str(error)
        if isinstance(error, InvalidValue):
            status = Exit.USAGE
    except KeyboardInterrupt:
        status, text = Exit.INTERRUPTED, "interrupted"
    except BrokenPipeError:  # `agentix ps | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    print(f"agentix {options.command}: {text}", file=sys.stderr)
    return int(status)


def run_command(options: argparse.Namespace) -> int:
    module, name = options.function.split(":")
    function: Callable[..., int] = getattr(importlib.import_module(f"agentix.cli.{module}"), name)
    if not options.is_operator:
        return function(options)
    from agentix.client import Connection

    connection = Connection("operator", options.kernel, f"agentix {options.command}", HELLO_S)
    try:
        return function(connection, options)
    finally:
        sys.stdout.flush()
        connection.close()


def make_parser() -> argparse.ArgumentParser:
    """Commands name their functions as text, so that `--help` imports none of them."""
    parser = argparse.ArgumentParser(
        prog="agentix",
        description="An operating system for LLM agents.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, function: str, text: str, is_operator: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument("--kernel", metavar="NAME", help="which kernel; main if left out")
        command.set_defaults(function=function, is_operator=is_operator)
        return command

    from agentix.cli.boot import add_kernel_options

    command = add("up", "system:up", "run a kernel in the foreground; Ctrl-C ends it", False)
    command.add_argument("--name", dest="kernel", metavar="NAME", help="the same as --kernel")
    add_kernel_options(command)

    command = add("run", "tasks:run", "run a script as an agent and show what it prints")
    command.add_argument("--name", default="", help="of the agent; the script's if left out")
    command.add_argument("--priority", type=int, metavar="NICE", help="-20 first, 19 last")
    command.add_argument(
        "--allow", action="append", default=[], metavar="CAPABILITY", help="such as task.create; may be repeated"
    )
    command.add_argument("--detach", action="store_true", help="print its pid and leave it running")
    command.add_argument("script", metavar="SCRIPT")
    command.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER)

    command = add("ps", "tasks:ps", "list the agents and what they have used")
    command.add_argument("--json", action="store_true")

    command = add("kill", "tasks:kill", "send a signal to an agent")
    command.add_argument("pid", type=int, metavar="PID")
    command.add_argument("signal", nargs="?", default="TERM", metavar="SIGNAL")

    command = add("wait", "tasks:wait", "wait for an agent and end as it ended")
    command.add_argument("pid", type=int, metavar="PID")
    command.add_argument("--timeout", type=float, metavar="SECONDS")

    command = add("logs", "tasks:logs", "print the last that an agent has printed")
    command.add_argument("pid", type=int, metavar="PID")

    command = add("info", "system:info", "print the kernel's settings and counters")
    command.add_argument("--json", action="store_true")

    add("down", "system:down", "end every agent and the kernel")

    command = add("doctor", "doctor:doctor", "find out what is wrong on this machine", False)
    command.add_argument("--model", metavar="PATH", help="a GGUF file to try; the default model if left out")
    command.add_argument("--json", action="store_true")

    command = add("pull", "models:pull", "fetch a model from a hub, or look whether Ollama has it", False)
    command.add_argument("model", metavar="MODEL", help="hf:owner/repo/file.gguf or ollama:name[:tag]")

    command = add("ls", "models:ls", "list the models that were pulled, and Ollama's", False)
    command.add_argument("--json", action="store_true")

    command = add("show", "models:show", "say what a model is, what it needs and whether it fits here", False)
    command.add_argument("model", metavar="MODEL", help="a path, or a name that `agentix ls` shows")
    command.add_argument("--json", action="store_true")

    command = add("rm", "models:rm", "delete a model that was pulled", False)
    command.add_argument("model", metavar="MODEL")

    command = add("calibrate", "calibrate:calibrate", "measure how this machine runs a model best", False)
    command.add_argument("model", nargs="?", metavar="MODEL", help="the default model if left out")
    command.add_argument("--fast", action="store_true", help="also modes in which neighbours change bits")
    command.add_argument("--json", action="store_true")

    command = add("demo", "demo:demo", "run many agents on a kernel of their own", False)
    add_kernel_options(command)
    command.set_defaults(slots=4, policy="rr", quantum=16)
    command.add_argument("--agents", type=int, default=12, metavar="N")
    command.add_argument("--turns", type=int, default=3, metavar="N", help="of each agent")
    command.add_argument("--tokens", type=int, default=48, metavar="N", help="at most, of each turn")
    command.add_argument("--seed", type=int, default=1, metavar="N")
    command.add_argument("--report", metavar="PATH", help="write the figures to a JSON file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
