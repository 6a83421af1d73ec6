"""Mutants are small, made of what is said to be changed, and all of them are programs."""

from __future__ import annotations

import ast

import pytest

from benchmarks.sched_mutants import ROOT, TESTS, changed, mutants_of

SOURCE = '''"""Text of 3 words."""
from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(slots=True)
class Thing:
    """Text."""

    size: int = 2000

    def grow(self, by: int = 1) -> bool:
        """Text."""
        assert by > 0, "no"
        if not by or self.size < 5:
            raise ValueError(f"{by + 1} is wrong")
        self.size += max(by, 2)
        return True
'''


def test_every_kind_of_change_is_made_where_it_can_be_noticed():
    assert sorted((one.line, one.change) for one in mutants_of("it", SOURCE)) == [
        (11, "2000 -> 4000"),
        (13, "1 -> 2"),
        (16, "5 -> 6"),
        (16, "not by -> not not by"),
        (16, "not by or self.size < 5 -> not by and self.size < 5"),
        (16, "self.size < 5 -> self.size <= 5"),
        (16, "self.size < 5 -> self.size >= 5"),
        (17, "lost: raise ValueError(f'{by + 1} is wrong')"),
        (18, "2 -> 3"),
        (18, "lost: self.size += max(by, 2)"),
        (18, "max -> min"),
        (18, "self.size += max(by, 2) -> self.size -= max(by, 2)"),
        (19, "True -> False"),
    ]


@pytest.mark.parametrize("module", ["realtime", "shares", "residency"])
def test_every_mutant_is_a_program_of_its_own(module):
    source = (ROOT / f"kernel/sched/{module}.py").read_text()
    mutants = mutants_of(module, source)
    texts = [changed(source, one.place) for one in mutants]
    assert len(set(texts) | {ast.unparse(ast.parse(source))}) == len(texts) + 1
    for text in texts:
        compile(text, module, "exec")


def test_the_tests_of_every_module_are_there():
    for module, names in TESTS.items():
        assert (ROOT / f"kernel/sched/{module}.py").exists()
        assert all((ROOT / f"tests/unit/{name}.py").exists() for name in names)
