"""Constrained texts with a real vocabulary: what comes is whole, hostile grammars hurt their request alone."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing

import llama_cpp
import numpy as np
import psutil
import pytest

from benchmarks.json_schema import draw_texts, is_valid
from benchmarks.json_schema_cases import made_schema
from benchmarks.models import model_path
from kernel.engine.base import Constraint, EngineError, Opening, Sampling
from kernel.engine.textside import client
from kernel.engine.textside.automaton import Automaton
from kernel.engine.textside.client import TextSide
from kernel.engine.textside.gate import Gate
from kernel.engine.textside.gbnf import parse
from kernel.engine.textside.lexicon import Lexicon
from kernel.engine.textside.vocabulary import Vocabulary

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["n"],
    }
)
STRING = r'"\"" ([^"\\\x00-\x1F] | "\\" ["\\nt])* "\""'


@pytest.fixture(scope="module")
def path() -> str:
    return str(model_path())


@pytest.fixture(scope="module")
def served(path: str) -> Iterator[TextSide]:
    with closing(TextSide(path)) as one:
        yield one


@pytest.fixture
def side(served: TextSide) -> Iterator[TextSide]:
    """Yield a text side without a gate, and leave it so."""
    yield served
    for request in list(served._gates):
        served.close_request(request)
    wait_for_checkers(served, 0)


@pytest.fixture(scope="module")
def vocabulary(path: str) -> Vocabulary:
    return Vocabulary(path)


def opening(
    text: str = SCHEMA,
    kind: str = "json_schema",
    request: int = 1,
    max_tokens: int = 100,
    tokens: tuple[int, ...] = (),
    generated: int = 0,
) -> Opening:
    return Opening(
        request, 0, Sampling(), Constraint(kind, text), tokens, generated, max_tokens, False
    )


def draw(gate: Gate, vocabulary: Vocabulary, tokens: int, seed: int = 1) -> list[int]:
    """Draw from all that may come, as far as the end or `tokens` tokens."""
    random = np.random.default_rng(seed)
    drawn: list[int] = []
    while len(drawn) < tokens and not (drawn and drawn[-1] in vocabulary.ends):
        token = int(random.choice(np.flatnonzero(gate.admitted())))
        token = token if gate.admits(token) else gate.closing()
        gate.accept(token)
        drawn.append(token)
    return drawn


def checkers(side: TextSide) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(side._child.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "agentix-grammar":
                found.append(child)
    return found


def wait_for_checkers(side: TextSide, most: int) -> None:
    until = time.monotonic() + 10
    while len(checkers(side)) > most:
        assert time.monotonic() < until


# -- against llama.cpp's own sampler -----------------------------------------------------------

GRAMMARS = [
    f"root ::= {STRING}",
    'root ::= object\nobject ::= "{" pair ("," pair)* "}"\npair ::= [a-z]+ ": " (object | [0-9]+ | "[" object? "]")',
    'root ::= ("ab" | "abc" | [^a-z]){2,4} "."? [0-9]{0,3} | . . ("the" | "th" [a-e]?)*',
    'root ::= (a b?)+ [^ ]\na ::= "to" | "t" | [\u00e0-\u00ff]\nb ::= " " a | c{2}\nc ::= [^a]?',
    'root ::= [\u4e00-\u9fff]+ | ["\\[\\]\\x41-\\u0045-]* "\\t" | (" the" | " of")+',
]


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_what_may_come_next_is_what_llama_cpps_sampler_lets_come(
    vocabulary: Vocabulary, grammar: str
) -> None:
    """But for pieces of malformed UTF-8, and control tokens, whose names it takes for text."""
    lexicon = Lexicon(vocabulary.pieces, vocabulary.ends, vocabulary.end)
    is_told_apart = np.array(
        [
            token in vocabulary.ends or (bool(piece) and is_utf_8(piece))
            for token, piece in enumerate(vocabulary.pieces)
        ]
    )
    for seed in range(6):
        random = np.random.default_rng(seed)
        built = Automaton(parse(grammar, vocabulary.token_of), lexicon)
        theirs = llama_cpp.llama_sampler_init_grammar(vocabulary._vocab, grammar.encode(), b"root")
        state = built.start
        for _ in range(20):
            mask = built.admitted(state)
            assert (mask == llama_mask(theirs, vocabulary.size))[is_told_apart].all()
            may_come = [one for one in np.flatnonzero(mask) if one not in vocabulary.ends]
            if not may_come:
                break
            token = int(random.choice(may_come))
            state = built.step_token(state, token)
            llama_cpp.llama_sampler_accept(theirs, token)
        llama_cpp.llama_sampler_free(theirs)


def is_utf_8(piece: bytes) -> bool:
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False


def llama_mask(sampler: llama_cpp.llama_sampler_p, vocab: int) -> np.ndarray:
    data = np.zeros(
        vocab, np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True)
    )
    data["id"] = np.arange(vocab)
    pointer = data.ctypes.data_as(llama_cpp.llama_token_data_p)
    array = llama_cpp.llama_token_data_array(data=pointer, size=vocab, selected=-1, sorted=False)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    return data["logit"] == 0.0


# -- gates -------------------------------------------------------------------------------------


def test_texts_drawn_from_random_logits_are_whole_and_valid(path: str) -> None:
    texts = draw_texts([made_schema(seed) for seed in range(100, 124)], path, 3)
    drawn = [one for one in texts if not one.error]
    assert len(drawn) > 16
    assert [one for one in drawn if not is_valid(one)] == []


def test_a_gate_says_what_may_come_and_how_to_end(side: TextSide, vocabulary: Vocabulary) -> None:
    gate = side.open_gate(opening('root ::= "yes" | "no"', "gbnf"))
    y, n, o = (vocabulary.tokenize(text, False)[0] for text in "yno")
    assert gate.admits(n)
    assert not gate.admits(o)
    assert gate.admitted().shape == (vocabulary.size,)
    assert gate.admitted()[[y, n, o, vocabulary.end]].tolist() == [True, True, False, False]
    gate.accept(n)
    assert gate.closing() == o
    gate.accept(o)
    assert gate.closing() == vocabulary.end
    assert gate.admits(vocabulary.end)


def test_a_request_that_comes_back_to_a_slot_goes_on_in_the_same_process(
    side: TextSide, vocabulary: Vocabulary
) -> None:
    gate = side.open_gate(opening())
    came = draw(gate, vocabulary, 10)
    assert side.open_gate(opening(tokens=(7, 8, *came), generated=10)) is gate
    assert len(checkers(side)) == 1


def test_a_gate_rebuilt_from_tokens_goes_on_as_the_lost_one_would_have(
    path: str, side: TextSide, vocabulary: Vocabulary
) -> None:
    came = draw(side.open_gate(opening(max_tokens=40)), vocabulary, 40)
    for cut in (0, 3, len(came) - 2):
        prompt = (9, 9)
        kept = side.open_gate(opening(request=2, max_tokens=40))
        for token in came[:cut]:
            kept.accept(token)
        with closing(TextSide(path)) as another:
            tokens = (*prompt, *came[:cut])
            rebuilt = another.open_gate(
                opening(request=2, max_tokens=40, tokens=tokens, generated=cut)
            )
            assert rebuilt.closing() == kept.closing()
            assert (rebuilt.admitted() == kept.admitted()).all()
            assert [rebuilt.admits(token) for token in range(500)] == [
                kept.admits(token) for token in range(500)
            ]


def test_the_death_of_the_text_side_is_not_seen_by_a_gate(
    side: TextSide, vocabulary: Vocabulary
) -> None:
    gate = side.open_gate(opening())
    draw(gate, vocabulary, 5)
    before = gate.admitted(), gate.closing()
    server = psutil.Process(side._child.pid)
    processes = [server, *server.children()]
    server.kill()
    psutil.wait_procs(processes, timeout=10)
    assert (gate.admitted() == before[0]).all()
    assert gate.closing() == before[1]


def test_no_more_processes_are_kept_than_a_limit_and_each_request_goes_on(
    side: TextSide, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_CHECKERS", 2)
    gates = [side.open_gate(opening(request=number)) for number in range(5)]
    tokens = [draw(gate, vocabulary, 100) for gate in gates]
    assert tokens == tokens[:1] * 5
    assert json.loads(vocabulary.detokenize(tokens[0]))["n"] is not None
    side.open_gate(opening(request=9)).closing()
    wait_for_checkers(side, 2)


def test_a_closed_request_leaves_no_process(side: TextSide) -> None:
    side.open_gate(opening(request=3)).closing()
    (process,) = checkers(side)
    side.close_request(3)
    side.close_request(3)
    assert psutil.wait_procs([process], timeout=10)[1] == []


# -- hostile grammars --------------------------------------------------------------------------

CHAIN = "\n".join(f"r{i} ::= [a-z]{{1,2000}} r{i + 1} | [a-z]* r{i + 2}" for i in range(1500))
TOWER = {
    f"a{i}": {"prefixItems": [{"$ref": f"#/$defs/a{i + 1}"}], "minItems": 1} for i in range(4000)
}
REGEX = {"properties": {"a" * 60: {}}, "patternProperties": {"(a+)+$b": {}}}
HOSTILE = {
    "left recursion": ("gbnf", "root ::= root [a] | [b]", "rule root starts with itself"),
    "endless": ("gbnf", "root ::= [a] root", "no text that follows it ever ends"),
    "nesting": ("gbnf", "root ::= " + "(" * 60_000, "nested more than 200 deep"),
    "millions": ("gbnf", 'root ::= ("a"{999999999}){999999999}', "is longer than 16384 bytes"),
    "slow to read": ("json_schema", json.dumps(REGEX), "of CPU to be read"),
    "slow to run": (
        "gbnf",
        f'{CHAIN}\nr1500 ::= "a"\nr1501 ::= "b"\nroot ::= r0',
        "of CPU for one token",
    ),
    "no grammar": ("gbnf", "\1\2", "expected a rule's name"),
    "no schema": ("json_schema", "[" * 50_000, "nested too deep"),
    "deep references": (
        "json_schema",
        json.dumps({"$defs": TOWER, "$ref": "#/$defs/a0"}),
        "nested too deep",
    ),
    "remote": (
        "json_schema",
        '{"$ref": "https://localhost:1/x.json"}',
        "references are not fetched",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_fails_its_own_request_with_a_reason(
    side: TextSide, vocabulary: Vocabulary, name: str
) -> None:
    kind, text, reason = HOSTILE[name]
    beside = side.open_gate(opening(request=1))
    beside.closing()
    gate = side.open_gate(opening(text, kind, request=2))
    for _ in range(2):  # the same again: a request fails once and for all
        with pytest.raises(EngineError) as raised:
            draw(gate, vocabulary, 100)
        assert reason in str(raised.value)
    assert json.loads(vocabulary.detokenize(draw(beside, vocabulary, 100)))["n"] is not None


def test_a_grammar_that_kills_its_process_is_told_so(side: TextSide) -> None:
    gate = side.open_gate(opening())
    gate.closing()
    (process,) = checkers(side)
    os.kill(process.pid, signal.SIGABRT)
    process.wait(10)
    with pytest.raises(EngineError, match="the grammar killed its checker: signal SIGABRT"):
        gate.closing()
    assert side.open_gate(opening(request=2)).closing()


def test_a_grammar_that_stops_its_process_keeps_nobody_waiting_for_ever(
    side: TextSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = side.open_gate(opening())
    gate.closing()
    (process,) = checkers(side)
    process.suspend()
    monkeypatch.setattr("kernel.engine.textside.gate.ANSWER_S", 0.2)
    with pytest.raises(EngineError, match=r"did not answer within 0\.2 s"):
        gate.admitted()
    assert psutil.wait_procs([process], timeout=10)[1] == []


def test_a_token_that_the_grammar_does_not_admit_fails_the_request(side: TextSide) -> None:
    gate = side.open_gate(opening())
    gate.accept(700)
    with pytest.raises(EngineError, match="token 700 came, which it does not admit"):
        gate.closing()
