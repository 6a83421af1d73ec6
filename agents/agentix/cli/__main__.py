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
CLASSES = "realtime, fair, batch or idle"
ATTRIBUTES = "such as weight=200, policy=rr, params.quantum_tokens=16, policies=rr,fcfs, tokens=none"


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    arguments, program = split_program(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(arguments)
    if program:
        options.function, options.is_operator, options.program = "program:run", False, program
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


def split_program(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Cut `run [OPTIONS] -- PROGRAM ARGS` in two; a "--" behind a script is the script's."""
    if arguments[:1] != ["run"] or "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    options = iter(arguments[1:at])
    for option in options:
        if not option.startswith("-"):
            return arguments, []
        if option in ("--name", "--priority", "--nice", "--allow", "--kernel", "--group", "--policy", "--class"):
            next(options, None)
    return [*arguments[:at], "-"], arguments[at + 1 :]


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

    from agentix.cli.boot import add_kernel_options, add_kv_type

    command = add("up", "up:up", "run a kernel in the foreground; Ctrl-C ends it", False)
    command.add_argument("--name", dest="kernel", metavar="NAME", help="the same as --kernel")
    add_kernel_options(command)
    command.add_argument("--http", metavar="HOST:PORT", help="serve OpenAI's and Ollama's APIs there")
    command.add_argument("--keys", metavar="FILE", help="TOML: who may call over HTTP, and how each is scheduled")

    command = add("gateway", "up:gateway", "serve OpenAI's and Ollama's APIs for a kernel that runs already")
    command.add_argument("--http", required=True, metavar="HOST:PORT", help="port 0: any that is free")
    command.add_argument("--keys", metavar="FILE", help="TOML: who may call, and how each is scheduled")

    command = add("run", "tasks:run", "run a script as an agent, or `-- PROGRAM ARGS` with its model calls served")
    command.add_argument("--name", default="", help="of the agent; the script's if left out")
    command.add_argument("--nice", "--priority", dest="priority", type=int, metavar="N", help="-20 first, 19 last")
    command.add_argument("--group", default="", metavar="PATH", help="of `group ls`")
    command.add_argument("--policy", metavar="NAME", help="of `policies`; its group's if left out")
    command.add_argument("--class", dest="sched_class", metavar="CLASS", help=CLASSES)
    command.add_argument(
        "--allow", action="append", default=[], metavar="CAPABILITY", help="such as task.create; may be repeated"
    )
    command.add_argument("--detach", action="store_true", help="print its pid and leave it running")
    command.add_argument("script", metavar="SCRIPT")
    command.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER)

    command = add("ps", "tasks:ps", "list the agents and what they have used")
    command.add_argument("--json", action="store_true")

    command = add("top", "top:top", "watch the agents at work; keys renice, pause and kill them")
    command.add_argument("--once", action="store_true", help="print one picture and end")
    command.add_argument("--json", action="store_true", help="print the figures once, for machines")
    command.add_argument("--every", type=float, default=1.0, metavar="SECONDS")

    command = add("chat", "chat:chat", "talk with a model in the terminal", False)
    command.add_argument("--model", default="", metavar="NAME", help="one of `agentix info`'s; the first if left out")
    command.add_argument("--system", default="", metavar="TEXT", help="what the model is told first")
    command.add_argument("--temperature", type=float, default=0.8, metavar="N")
    command.add_argument("--max-tokens", type=int, default=1024, metavar="N", help="of an answer")

    command = add("kill", "tasks:kill", "send a signal to an agent")
    command.add_argument("pid", type=int, metavar="PID")
    command.add_argument("signal", nargs="?", default="TERM", metavar="SIGNAL")

    command = add("wait", "tasks:wait", "wait for an agent and end as it ended")
    command.add_argument("pid", type=int, metavar="PID")
    command.add_argument("--timeout", type=float, metavar="SECONDS")

    command = add("logs", "tasks:logs", "print the last that an agent has printed")
    command.add_argument("pid", type=int, metavar="PID")

    add_scheduling(add)

    action = add_actions(add("ctx", "", "show the sessions that agents have open, and where contexts are"), "ctx")
    command = action("ls", "list sessions, and where their contexts are")
    command.add_argument("pid", type=int, nargs="?", default=0, metavar="PID", help="of one agent; all if left out")
    command.add_argument("--json", action="store_true")
    command = action("stat", "print how much is in slots, in memory and on disk")
    command.add_argument("--json", action="store_true")

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
    add_kv_type(command, "f16")
    command.add_argument("--json", action="store_true")

    command = add("rm", "models:rm", "delete a model that was pulled", False)
    command.add_argument("model", metavar="MODEL")

    command = add("calibrate", "calibrate:calibrate", "measure how this machine runs a model best", False)
    command.add_argument("model", nargs="?", metavar="MODEL", help="the default model if left out")
    command.add_argument("--fast", action="store_true", help="also modes in which neighbours change bits")
    add_kv_type(command, "f16")
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


def add_scheduling(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that show and change how agents share the models."""
    command = add("nice", "sched:nice", "change an agent's nice value")
    command.add_argument("nice", type=int, metavar="N", help="-20 first, 19 last")
    command.add_argument("pid", type=int, metavar="PID")

    command = add("chrt", "sched:chrt", "show or change how an agent is scheduled")
    command.add_argument("pid", type=int, metavar="PID")
    command.add_argument("--class", dest="sched_class", metavar="CLASS", help=CLASSES)
    command.add_argument("--policy", metavar="NAME", help="of `policies`; \"\": its group's")
    command.add_argument("--slice", type=int, metavar="MS", help="core time that a turn on the model lasts")
    command.add_argument("--weight", type=int, metavar="W", help="its share; nice 0 is 100")
    command.add_argument("--rt", type=int, metavar="N", help="within class realtime: 99 first, 1 last")

    command = add("why", "sched:why", "say why an agent waited last, and how long it may have to")
    command.add_argument("pid", type=int, metavar="PID")
    command.add_argument("--json", action="store_true")

    command = add("policies", "sched:policies", "list the scheduling policies and classes")
    command.add_argument("--json", action="store_true")

    command = add("pressure", "sched:pressure", "show how much of the time agents waited for a model")
    command.add_argument("--json", action="store_true")

    add_action = add_actions(add("group", "", "list, make, change and remove scheduling groups"), "groups")
    action = add_action("ls", "list the groups and what they have used")
    action.add_argument("--json", action="store_true")
    for name, text in (("create", "make a group"), ("set", "change a group")):
        action = add_action(name, text)
        action.add_argument("path", metavar="PATH")
        action.add_argument("attributes", nargs="*", metavar="KEY=VALUE", help=ATTRIBUTES)
    action = add_action("attach", "move an agent into a group")
    action.add_argument("path", metavar="PATH")
    action.add_argument("pid", type=int, metavar="PID")
    add_action("rm", "remove a group that is empty").add_argument("path", metavar="PATH")


def add_actions(command: argparse.ArgumentParser, module: str) -> Callable[[str, str], argparse.ArgumentParser]:
    """Return what adds an action to a command; its function has its name, in the command's module."""
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add_action(name: str, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        kept = argparse.SUPPRESS  # what was given before the action stays
        action.add_argument("--kernel", metavar="NAME", default=kept, help="which kernel; main if left out")
        action.set_defaults(function=f"{module}:{name}")
        return action

    return add_action


if __name__ == "__main__":
    sys.exit(main())
