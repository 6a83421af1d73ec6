"""Do the tests notice? Seeded mutants of the scheduler, each a small wrong change, and how many the unit tests kill.

A mutant is one change in a copy of the tree: a comparison turned or shifted by its boundary, a number off by one,
+ for -, `and` for `or`, a lost `not`, a lost statement, min for max, True for False. The tests that concern the changed
module run on the copy; a mutant is killed when one of them fails, or hangs. Left alone is what no test can or should
notice: texts, annotations, the keywords of dataclasses, assertions.

    python -m benchmarks.sched_mutants [--count N] [--seed S] [--modules NAME ...] [--all]

Exit status 0: nine in ten are killed; 1: fewer; 2: the tests fail without a mutant.
"""

from __future__ import annotations

import argparse
import ast
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("kernel", "shm", "benchmarks", "tests/unit")
BAR = 0.9
TIMEOUT_S = 60.0
HANG_FACTOR = 4  # tests that take so many times longer than without a mutant hang; 5 s more for a busy machine
MOST_BYTES = 4 << 30  # of memory: some mutants never stop asking for more
BIG = 1000  # a number from here on is doubled: one more of so many is no change

TESTS: dict[str, tuple[str, ...]] = {  # of each module, quickest first
    "banks": ("test_banks",),
    "classes": ("test_sched_classes",),
    "eevdf": ("test_eevdf", "test_eevdf_lag", "test_policies"),
    "fcfs": ("test_policies",),
    "feeding": ("test_feeding",),
    "gate": ("test_gate",),
    "groups": ("test_groups",),
    "hrrn": ("test_hrrn", "test_policies"),
    "mlfq": ("test_mlfq", "test_policy_orders", "test_policies"),
    "params": ("test_policies",),
    "plas": ("test_policy_orders", "test_policies"),
    "priority": ("test_policy_orders", "test_policies"),
    "quota": ("test_quota",),
    "ranked": ("test_mlfq", "test_policy_orders", "test_policies"),
    "realtime": ("test_realtime",),
    "rescue": ("test_rescue_siblings", "test_rescue"),
    "residency": ("test_residency",),
    "round_robin": ("test_policies",),
    "shares": ("test_shares", "test_sched_tree"),
    "srpt": ("test_policy_orders", "test_policies"),
    "tree": ("test_sched_boost", "test_sched_tree", "test_sched_classes"),
    "turns": ("test_turns", "test_feeding"),
    "waits": ("test_waits",),
    "work": ("test_policy_orders",),
}

# Tests that make random cases look for one that fails, the same ones each time, and do not spend time to make it small.
_CONFTEST = """
from hypothesis import Phase, settings
settings.register_profile(
    "mutants", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None, deadline=None)
settings.load_profile("mutants")
"""

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
_LOSABLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.Delete, ast.Raise)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module."""

    module: str
    place: int  # among the module's
    line: int
    change: str


Change = tuple[int, str, Callable[[], None]]  # the line, what it is, and what makes it in the tree it was found in


def mutants_of(module: str, source: str) -> list[Mutant]:
    """Return every mutant of a module."""
    changes = enumerate(_changes(ast.parse(source)))
    return [Mutant(module, place, line, change) for place, (line, change, _) in changes]


def changed(source: str, place: int) -> str:
    """Return a module's text with one of its changes made."""
    tree = ast.parse(source)
    _, _, make = next(islice(_changes(tree), place, None))
    make()
    return ast.unparse(ast.fix_missing_locations(tree))


def _changes(tree: ast.Module) -> Iterator[Change]:
    """Yield all that can be changed, always in the same order."""
    for node in _visited(tree):
        yield from _of_expression(node)
        yield from _of_statements(node)


def _visited(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below one, without those that no test should notice."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Assert | ast.alias):
                continue
            if isinstance(child, ast.Assign) and _is_alias_of_type(child):
                continue
            yield child
            yield from _visited(child)


def _is_alias_of_type(node: ast.Assign) -> bool:
    """Whether it names a type: _Entry = tuple[float, int, _Entity]."""
    return isinstance(node.value, ast.Subscript) and isinstance(node.value.value, ast.Name)


def _of_expression(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in _COMPARISONS[type(operator)]:
                ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                yield _set(node, "ops", ops)
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        yield _set(node, "op", _OPERATORS[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _set(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield _set(node, "operand", ast.UnaryOp(ast.Not(), node.operand))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _set(node, "value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield _set(node, "value", 2 * node.value if abs(node.value) >= BIG else node.value + 1)
    elif isinstance(node, ast.Name) and node.id in ("min", "max"):
        yield _set(node, "id", "max" if node.id == "min" else "min")


def _set(node: ast.expr | ast.AugAssign, name: str, value: object) -> Change:
    """Return the change of one field."""
    changed = copy(node)
    setattr(changed, name, value)
    return node.lineno, f"{ast.unparse(node)} -> {ast.unparse(changed)}", lambda: setattr(node, name, value)


def _of_statements(node: ast.AST) -> Iterator[Change]:
    for name in ("body", "orelse"):
        body = getattr(node, name, None)
        if not isinstance(body, list) or isinstance(node, ast.Module | ast.ClassDef):
            continue
        for place, statement in enumerate(body):
            if _is_losable(statement):
                yield statement.lineno, f"lost: {ast.unparse(statement)}", _lose(body, place)


def _is_losable(statement: ast.stmt) -> bool:
    """Whether it can go without a name being missed at once."""
    if isinstance(statement, ast.Expr):
        return not isinstance(statement.value, ast.Constant | ast.Yield)
    if isinstance(statement, ast.Assign):
        return not any(isinstance(target, ast.Name | ast.Tuple) for target in statement.targets)
    return isinstance(statement, _LOSABLE)


def _lose(body: list[ast.stmt], place: int) -> Callable[[], None]:
    def make() -> None:
        body[place] = ast.Pass()

    return make


class Copy:
    """A copy of the tree in which modules are changed, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._takes_s: dict[str, float] = {}  # a module's tests, without a mutant
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__", "*.gguf", "*.pyc")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copy(ROOT / "setup.cfg", folder)
        (folder / "tests/unit/conftest.py").write_text(_CONFTEST)

    def is_sound(self, module: str) -> bool:
        """Whether a module's tests pass without a mutant; must be asked before its mutants are tried."""
        began = time.monotonic()
        status = self._test(module, TIMEOUT_S)
        self._takes_s[module] = time.monotonic() - began
        return status == 0

    def is_killed(self, mutant: Mutant) -> bool:
        """Whether the tests of its module notice a mutant."""
        path = self._folder / f"kernel/sched/{mutant.module}.py"
        original = path.read_text()
        self._write(path, changed(original, mutant.place))
        try:
            return self._test(mutant.module, HANG_FACTOR * self._takes_s[mutant.module] + 5) != 0
        finally:
            self._write(path, original)

    @staticmethod
    def _write(path: Path, source: str) -> None:
        """Change a module; what was compiled of it may look as new as this."""
        path.write_text(source)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()

    def _test(self, module: str, timeout_s: float) -> int:
        """Run a module's tests; return pytest's exit status, 1 when they hang.

        Raises InterruptedError when somebody else ended them: that says nothing of the mutant.
        """
        files = [f"tests/unit/{name}.py" for name in TESTS[module]]
        flags = ["-x", "-q", "--no-header", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *flags, *files]
        environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # of others: slower than the tests
        options = {"cwd": self._folder, "env": environment, "capture_output": True, "preexec_fn": _limit_memory}
        try:
            status = subprocess.run(command, check=False, timeout=timeout_s, **options).returncode
        except subprocess.TimeoutExpired:
            return 1
        if status in (-signal.SIGTERM, -signal.SIGKILL, -signal.SIGINT):
            raise InterruptedError(f"the tests of {module} were ended by signal {-status}")
        return status


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sched_mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="mutants, of all modules together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--modules", nargs="*", choices=TESTS, default=list(TESTS), metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every mutant there is, not a sample")
    options = parser.parse_args(arguments)
    found: list[Mutant] = []
    for module in options.modules:
        found += mutants_of(module, (ROOT / f"kernel/sched/{module}.py").read_text())
    chosen = found if options.all else Random(options.seed).sample(found, min(options.count, len(found)))
    print(f"{len(chosen)} of {len(found)} mutants, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tree = Copy(Path(folder))
        for module in options.modules:
            if not tree.is_sound(module):
                print(f"the tests of {module} fail without a mutant")
                return 2
        return _run(tree, sorted(chosen, key=lambda one: options.modules.index(one.module)))


def _run(tree: Copy, mutants: Sequence[Mutant]) -> int:
    """Try all, which are in the order of modules; print survivors and figures as they come. Return the exit status."""
    killed: Counter[str] = Counter()
    began = time.monotonic()
    for module, several in groupby(mutants, key=lambda one: one.module):
        total = 0
        for mutant in several:
            total += 1
            if tree.is_killed(mutant):
                killed[module] += 1
            else:
                print(f"survived: kernel/sched/{module}.py:{mutant.line}: {mutant.change}", flush=True)
        print(f"{module:12} {killed[module]:4} of {total:4} killed", flush=True)
    part = killed.total() / max(1, len(mutants))
    print(f"{killed.total()} of {len(mutants)} killed, {part:.1%}, in {time.monotonic() - began:.0f} s")
    return 0 if part >= BAR else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
