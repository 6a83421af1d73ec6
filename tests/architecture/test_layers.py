"""Who may import whom, who may import what, and the rules that no reader has to remember."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for folder in ("kernel", "shm", "agents", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
MAX_LINES = 400
STDLIB = set(sys.stdlib_module_names) | {"__future__"}
MANAGERS = ("context", "ipc", "memory", "proc", "sched")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module that a file imports anywhere, less those that only type checkers see."""
    found = set()
    skipped = {
        id(inner)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree_of(path)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: a relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names if (node.module or "") == "kernel"}
    return frozenset(found)


def importers(package: str) -> set[str]:
    """The files that import a package or anything inside it."""
    return {
        name_of(path)
        for path in SOURCES
        if any(name == package or name.startswith(f"{package}.") for name in imports_of(path))
    }


def shipped(package: str) -> set[str]:
    """The same without benchmarks/, whose scripts take parts of the kernel to measure them."""
    return {name for name in importers(package) if not name.startswith("benchmarks/")}


def under(folder: str) -> list[Path]:
    return [path for path in SOURCES if name_of(path).startswith(f"{folder}/")]


def test_the_sdk_imports_of_the_kernel_only_its_abi():
    for path in under("agents/agentix"):
        for name in imports_of(path):
            top = name.partition(".")[0]
            if top == "kernel":
                allowed = name.startswith("kernel.abi") or name_of(path).startswith("agents/agentix/cli/doctor")
                allowed |= name.startswith("kernel.engine") and name_of(path) == "agents/agentix/cli/models.py"
                assert allowed, f"{name_of(path)} imports {name}"


def test_agents_import_agentix_and_the_standard_library():
    for path in (ROOT / "agents").glob("*.py"):
        own = {other.stem for other in (ROOT / "agents").glob("*.py")}
        for name in imports_of(path):
            assert name.partition(".")[0] in STDLIB | {"agentix"} | own, f"{name_of(path)} imports {name}"


def test_the_kernel_never_imports_user_space_and_shm_imports_neither():
    for path in under("kernel"):
        assert not {"agentix", "benchmarks"} & {name.partition(".")[0] for name in imports_of(path)}, path
    for path in under("shm"):
        assert {name.partition(".")[0] for name in imports_of(path)} <= STDLIB | {"numpy"}, path


def test_the_abi_imports_the_standard_library_msgpack_and_itself():
    for path in under("kernel/abi"):
        for name in imports_of(path):
            allowed = name.partition(".")[0] in STDLIB | {"msgpack"} or name.startswith("kernel.abi")
            assert allowed, f"{name_of(path)} imports {name}"


def test_the_pure_core_does_no_input_or_output():
    """core.py and what it decides with: no sockets, files, clocks, threads or random numbers."""
    forbidden = {
        "asyncio", "multiprocessing", "os", "random", "select", "selectors", "socket", "subprocess",
        "threading", "time", "zmq", "psutil", "llama_cpp", "secrets", "uuid",
    }  # fmt: skip
    pure = [
        "calls", "core", "cores", "dispatch", "effects", "events", "limits", "objects", "report", "states",
        "context/store", "ipc/mailbox", "memory/manager", "proc/governor", "proc/table", "sched/asks",
        "sched/banks", "sched/fcfs", "sched/fields", "sched/flight", "sched/kept", "sched/mlfq", "sched/policy",
        "sched/priority", "sched/queues", "sched/requests", "sched/round_robin", "sched/scheduler",
        "sched/standing", "sched/texts", "sched/turns", "engine/base", "engine/calibration",
        "engine/chatformat", "engine/fit",
        "engine/logprobs", "engine/text", "ipc/zmtp", "abi/calls", "abi/codec", "abi/descriptors",
        "abi/schema", "abi/shape",
    ]  # fmt: skip
    for name in pure:
        imported = {one.partition(".")[0] for one in imports_of(ROOT / "kernel" / f"{name}.py")}
        assert not imported & forbidden, f"kernel/{name}.py imports {imported & forbidden}"


def test_managers_do_not_import_one_another():
    """But for the scheduler, which moves contexts about."""
    for manager in MANAGERS:
        for path in under(f"kernel/{manager}"):
            others = {
                name
                for name in imports_of(path)
                for other in MANAGERS
                if other != manager and name.startswith(f"kernel.{other}")
            }
            is_allowed = manager == "sched" and all(name.startswith("kernel.context.") for name in others)
            assert not others or is_allowed, f"{name_of(path)} imports {others}"


def test_only_boot_and_the_loop_know_both_the_core_and_the_world():
    assert shipped("kernel.core") == {"kernel/boot.py"}
    assert shipped("kernel.loop") == {"kernel/boot.py"}
    assert shipped("kernel.ipc.server") == {"kernel/boot.py", "kernel/loop.py"}
    assert shipped("kernel.corelinks") == {"kernel/loop.py"}
    assert shipped("kernel.segments") == {"kernel/boot.py", "kernel/corelinks.py", "kernel/loop.py"}


@pytest.mark.parametrize(
    ("package", "files"),
    [
        ("zmq", {"agents/agentix/transport.py"}),
        ("msgpack", {"kernel/abi/codec.py"}),
        ("psutil", {"kernel/boot.py"}),
        (
            "subprocess",
            {
                "agents/agentix/cli/program.py",
                "kernel/proc/launcher.py",
                "kernel/engine/link.py",
                "kernel/engine/build.py",
                "kernel/engine/buildgpu.py",
                "kernel/engine/buildrun.py",
                "kernel/engine/install.py",
                "kernel/engine/textside/client.py",
                "agents/agentix/cli/boot.py",
                "agents/agentix/cli/doctor.py",
                "agents/agentix/cli/engine.py",
            },
        ),
        ("random", set()),
        (
            "asyncio",
            {"agents/agentix/aio_client.py", "agents/best_of.py", "agents/tree_search.py"}
            | {
                f"agents/agentix/gateway/{one}.py"
                for one in ("__main__", "answers", "bodies", "operators", "server", "tasks", "work")
            },
        ),
    ],
)
def test_an_outside_thing_has_these_importers(package, files):
    assert shipped(package) == files


def test_llama_cpp_is_imported_inside_the_llm_core_alone():
    files = (
        "bank", "batch", "calibrate", "calibrationbench", "devices", "embedding", "family", "inspect", "llama",
        "probe", "textside/vocabulary",
    )  # fmt: skip
    assert shipped("llama_cpp") <= {f"kernel/engine/{name}.py" for name in files}
    assert shipped("kernel.engine.llama") == {"kernel/engine/embedding.py"}, "the worker imports it by name"


def test_numpy_stays_inside_the_engine_shm_and_benchmarks():
    """And in what makes an array of embeddings, when that is called."""
    for name in importers("numpy") - {"agents/agentix/vectors.py"}:
        assert name.startswith(("kernel/engine/", "kernel/sched/cost.py", "shm/", "benchmarks/")), name


def test_only_move_assigns_a_state():
    for path in SOURCES:
        for function in ast.walk(tree_of(path)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
                continue
            for node in ast.iter_child_nodes(function):
                for target in assigned_in(node):
                    if isinstance(target, ast.Attribute) and target.attr == "state":
                        is_move = getattr(function, "name", "") == "move"
                        assert is_move, f"{name_of(path)}:{target.lineno}: only move assigns a state"


def assigned_in(node: ast.AST) -> list[ast.expr]:
    """The targets of every assignment under a node, functions inside it left out."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return []
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        for target in node.targets:
            targets += target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets.append(node.target)
    for child in ast.iter_child_nodes(node):
        targets += assigned_in(child)
    return targets


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_is_short_and_says_what_it_is(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert not lines or ast.get_docstring(tree_of(path)), "a module without a docstring"


def test_what_serves_http_is_imported_by_the_gateway_alone():
    for package in ("starlette", "uvicorn", "prometheus_client"):
        files = shipped(package)
        assert files, package
        assert all(name.startswith("agents/agentix/gateway/") for name in files), files


def test_rich_is_imported_by_commands_alone():
    assert shipped("rich") == {"agents/agentix/cli/top.py"}
