"""Whatever bytes come, no way in raises, hangs or leaks: the kept inputs, then new ones for a minute in all.

FUZZ_SECONDS is how long in all, FUZZ_SEED what the new ones are made from. An input that breaks something is
put into the corpus of its target, where it is tried again from then on.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from kernel.abi.codec import MAGIC, decode_answer, decode_call
from kernel.abi.errors import KernelError
from kernel.ipc.zmtp import Decoder, Violation
from tests.fuzz.make_corpus import BROKE, CORPUS, kept
from tests.fuzz.mutate import GRAMMARS, Mutator
from tests.fuzz.run import Failure, Tally, fuzz, keep
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("FUZZ_SECONDS", "60")) / len(TARGETS)
SEED = int(os.environ.get("FUZZ_SEED", "1"))
MAX_CORPUS_BYTES = 64 << 10


def wrong(name: str, tally: Tally) -> str:
    """What to tell of a tally that is not clean."""
    lines = [f"{name}, seed {SEED}: {tally.leaked_descriptors} descriptors left open"]
    for failure in (*tally.crashes, *tally.hangs):
        lines += [f"the input is kept as {keep(name, failure)}", failure.trace]
    return "\n".join(lines)


@pytest.mark.parametrize("name", TARGETS)
def test_no_kept_input_harms(name):
    inputs = list(kept(name).values())
    tally = fuzz(TARGETS[name], iter(inputs))
    assert tally.is_clean, wrong(name, tally)
    assert tally.cases == len(inputs)


@pytest.mark.parametrize("name", TARGETS)
def test_no_new_input_harms(name, capsys):
    mutator = Mutator(name, list(kept(name).values()), SEED)
    tally = fuzz(TARGETS[name], mutator, seconds=SECONDS)
    with capsys.disabled():
        print(f"\n  {name}: {tally.cases} cases in {tally.seconds:.0f} s, seed {SEED}", end=" ")
    assert tally.is_clean, wrong(name, tally)


# -- the fuzzer itself ------------------------------------------------------------------------


def test_every_target_has_a_grammar_and_a_corpus():
    assert set(TARGETS) == set(GRAMMARS) == set(CORPUS)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_what_its_script_makes_and_small(name):
    found = {key: data for key, data in kept(name).items() if not key.startswith(BROKE)}
    assert found == CORPUS[name](), "run `python -m tests.fuzz.make_corpus`"
    assert sum(map(len, found.values())) < MAX_CORPUS_BYTES


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_gives_the_same_inputs_and_another_one_others(name):
    inputs = list(kept(name).values())
    first, again, other = ([*islice(Mutator(name, inputs, seed), 300)] for seed in (5, 5, 6))
    assert first == again
    assert len(set(first) | set(other)) > len(set(first)) > 250


def greets(data: bytes) -> None:
    decoder = Decoder()
    decoder.feed(data[1:])
    if decoder.next() is None:
        raise Violation("no greeting")


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("zmtp", greets),
        ("call", lambda data: decode_call(MAGIC + data)),
        ("answer", lambda data: decode_answer(MAGIC + data)),
    ],
)
def test_many_inputs_get_past_the_first_checks_and_many_do_not(name, check):
    """One that is refused at its first byte finds nothing."""
    past = 0
    for data in islice(Mutator(name, list(kept(name).values()), 5), 2000):
        with suppress(Violation, KernelError):
            check(data)
            past += 1
    assert 600 < past < 1800


def test_a_crash_is_found_and_its_input_kept(monkeypatch, tmp_path):
    def target(data: bytes) -> None:
        assert b"AGXF" not in data, "planted"

    tally = fuzz(target, Mutator("zmtp", [b""], 5), cases=20_000)
    assert tally.crashes
    assert not tally.hangs
    failure = tally.crashes[0]
    assert b"AGXF" in failure.data
    assert "planted" in failure.trace
    monkeypatch.setattr("tests.fuzz.run.FOLDER", tmp_path)
    (tmp_path / "zmtp").mkdir()
    path = keep("zmtp", failure)
    assert path.name.startswith(BROKE)
    assert path.read_bytes() == failure.data


def test_a_hang_is_found_even_where_every_exception_is_caught():
    def target(data: bytes) -> None:
        while data == b"hang":
            try:
                time.monotonic()
            except Exception:
                continue

    tally = fuzz(target, iter([b"", b"hang", b"x"]), deadline_s=0.05)
    assert [failure.data for failure in tally.hangs] == [b"hang"]
    assert (tally.cases, tally.crashes) == (3, [])


def test_descriptors_left_open_are_counted():
    left: list[socket.socket] = []
    tally = fuzz(lambda data: left.append(socket.socket()), iter([b"", b""]))
    for one in left:
        one.close()
    assert tally.leaked_descriptors == 2
    assert not tally.is_clean


def test_it_stops_at_the_number_of_cases_or_of_failures():
    assert fuzz(lambda data: None, Mutator("call", [b""], 1), cases=7).cases == 7

    def target(data: bytes) -> None:
        raise ValueError

    assert len(fuzz(target, Mutator("call", [b""], 1)).crashes) == 10
    assert fuzz(target, iter([b"a"])).crashes[0] == Failure(b"a", fuzz(target, iter([b"a"])).crashes[0].trace)


def test_the_command_prints_a_table():
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "200", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["seed", "3"]
    assert [[row[0], row[1], *row[4:]] for row in rows[-len(TARGETS) :]] == [
        [name, "200", "0", "0", "0"] for name in TARGETS
    ]
