"""Grammars: what may come next, how a text is closed, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.engine.base import EngineError
from kernel.engine.textside.automaton import DEAD, Automaton
from kernel.engine.textside.gbnf import merge, parse
from kernel.engine.textside.lexicon import Lexicon
from kernel.engine.textside.plan import Plan, cover_text
from kernel.engine.textside.utf8 import Residuals, sequences

WORDS = [
    b"ab",
    b"abc",
    b"xyz",
    b"hello",
    b' "',
    "\u00e9".encode(),
    "\u4f60\u597d".encode(),
    "\u4f60".encode()[:2],
]
PIECES = [bytes([byte]) for byte in range(256)] + WORDS + [b"", b""]
CONTROL, END = len(PIECES) - 2, len(PIECES) - 1
LEXICON = Lexicon(PIECES, [END], END)
JSON_TEXT = r'root ::= "\"" ([^"\\\x00-\x1F] | "\\" ["\\nt])* "\""'


def token_of(written: str) -> int | None:
    return {"<control>": CONTROL, "<x>": ord("x")}.get(written)


def automaton(grammar: str, lexicon: Lexicon = LEXICON) -> Automaton:
    return Automaton(parse(grammar, token_of), lexicon)


def takes(grammar: str, text: str | bytes) -> bool:
    """Whether a grammar takes a text from its beginning to its end."""
    built = automaton(grammar)
    state = built.start
    for byte in text.encode() if isinstance(text, str) else text:
        state = built.step(state, byte)
    return built.is_whole(state)


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["", "y", "yesno"]),
        ("root ::= [a-c]+ [^x]", ["aa", "ab\u00e9", "c\n"], ["", "a", "ax", "da"]),
        ("root ::= a{2,3} # a comment\na ::= [ab]", ["ab", "aba"], ["a", "abab"]),
        ("root ::= a{2} b? c*\na ::= .\nb ::= [0-9]\nc ::= b", ["xx", "xx123"], ["x", "xxa"]),
        ("root ::= (\n  [a] |\n  [b]\n) [c]", ["ac", "bc"], ["c", "ab"]),
        ('root ::= "(" root ")" | ""', ["", "(())"], ["(", "(()"]),
        (r'root ::= "\x41\u00e9\U0001F600\t\"\\" [\]\-\[]', ['A\u00e9\U0001f600\t"\\]'], ["A"]),
        ("root ::= [a-] [-b]", ["a-", "-b"], ["c-"]),
        (
            "root ::= (a? b?){3}\na ::= [a]\nb ::= [b]",
            ["", "ab", "bbb", "aaa", "ababab"],
            ["abababa", "c"],
        ),
        ("root ::= ([a]? [b]?)* [c]", ["c", "abbac"], ["ab", "d"]),
        ("root ::= x\nx ::= y y\ny ::= z z\nz ::= [a]?", ["", "aaaa"], ["aaaaa"]),
        ("root ::= [a]{0}", [""], ["a"]),
        ('root ::= ""', [""], ["a"]),
    ],
)
def test_a_grammar_takes_what_it_says_and_nothing_else(
    grammar: str, good: list[str], bad: list[str]
) -> None:
    assert [text for text in good if not takes(grammar, text)] == []
    assert [text for text in bad if takes(grammar, text)] == []


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("a ::= [a]", "there is no rule root"),
        ("root ::= a\n", "line 1, column 10: rule a is not defined"),
        ("root ::= [a", "the text ends inside a literal or a class"),
        ('root ::= "a', "the text ends inside a literal or a class"),
        ("root ::= ([a]", "expected )"),
        ("root ::= [a] )", "expected a new line or the end"),
        ("root ::= *", "nothing before * to repeat"),
        ("root ::= [a]{2,1}", "a repetition of 2 to 1"),
        ("root ::= [a]{9999999999}", "a repetition of 9999999999 times"),
        (r'root ::= "\q"', r"escape \q"),
        (r'root ::= "\u12"', r"escape \u12"),
        ("root ::= []", "a class of no characters"),
        ("root = [a]", "expected ::="),
        ("root ::= <nobody>", "<nobody> is not one token of this model"),
        (f"root ::= <[{END}]>", "ends a text"),
        ("root ::= <[123456]>", "not in the vocabulary"),
        ("root ::= " + "(" * 1000 + "[a]" + ")" * 1000, "nested more than 200 deep"),
        ('root ::= "a\0b"', "the text ends inside"),
        ("root ::= root [a] | [b]", "rule root starts with itself"),
        ("root ::= a\na ::= [x]? b\nb ::= [c]* a", "starts with itself"),
        ("root ::= (root)? [a]", "starts with itself"),
        ("", "there is no rule root"),
    ],
)
def test_a_grammar_that_is_none_is_refused_with_the_place(grammar: str, reason: str) -> None:
    with pytest.raises(EngineError) as raised:
        automaton(grammar)
    assert reason in str(raised.value)


def test_a_text_without_an_end_is_refused_before_it_begins() -> None:
    with pytest.raises(EngineError, match="no text that follows it ever ends"):
        Plan(automaton("root ::= [a] root"), LEXICON, 100)


def test_ambiguity_costs_no_more_than_the_grammar() -> None:
    """Each of 2^24 ways to read the same text would be a stack of its own, were they not shared."""
    levels = "".join(f'r{level} ::= r{level + 1} | r{level + 1} "x"?\n' for level in range(24))
    assert takes(f'root ::= r0\n{levels}r24 ::= "a"', "axxx")
    assert takes('root ::= (("a"?){1000}){1000}', "a" * 100)


def test_repetitions_are_counted_and_not_copied() -> None:
    built = automaton("root ::= ([a]{0,1000} [b]){0,1000000}")
    state = built.start
    for byte in b"aab" * 50:
        state = built.step(state, byte)
    assert built.is_whole(state)


def test_malformed_utf_8_is_no_text() -> None:
    anything = "root ::= [^x]*"
    assert takes(anything, "\u00e9\u4f60\U0001f600".encode())
    for raw in (
        b"\xc0\xa2",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xff",
        b"\x80",
        b"\0",
    ):
        assert not takes(anything, raw), raw


@given(
    st.lists(st.tuples(st.integers(1, 0x10FFFF), st.integers(0, 3000)), min_size=1, max_size=4),
    st.characters(),
)
def test_a_set_of_code_points_is_written_as_exactly_its_utf_8(
    spans: list[tuple[int, int]], char: str
) -> None:
    ranges = merge([(low, min(low + length, 0x10FFFF)) for low, length in spans])
    residuals = Residuals(frozenset(range(256)))
    written = sequences(ranges)
    for code in {low for low, _ in ranges} | {high for _, high in ranges} | {ord(char)}:
        if code == 0 or 0xD800 <= code <= 0xDFFF:
            continue
        at = residuals.number(written) if written else -1
        for byte in chr(code).encode():
            at = residuals.tables[at][byte] if at > 0 else -1
        assert (at == 0) == any(low <= code <= high for low, high in ranges)


# -- tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grammar",
    [
        JSON_TEXT,
        'root ::= ("ab" | "abc" | "hello")+',
        "root ::= [^a]{2}",
        "root ::= .* <control> [x] !<x>",
    ],
)
def test_the_mask_of_all_tokens_says_of_each_what_a_step_says(grammar: str) -> None:
    built = automaton(grammar)
    state = built.start
    for token in (*b'"', 258, 260, ord("h"), CONTROL, ord("x")):
        mask = built.admitted(state)
        steps = [built.step_token(state, one) != DEAD for one in range(len(PIECES) - 1)]
        assert mask[:-1].tolist() == steps
        assert mask[END] == built.is_whole(state)
        state = built.step_token(state, token) if steps[token] else state


def test_a_token_without_a_text_comes_only_where_it_is_asked_for() -> None:
    built = automaton("root ::= . <control> [a]")
    asked_for = built.step_token(built.start, ord("z"))
    assert built.step_token(built.start, CONTROL) == DEAD
    after = built.step_token(asked_for, CONTROL)
    assert built.step_token(after, ord("a")) != DEAD
    assert built.step_token(asked_for, ord("a")) == DEAD


def test_any_token_but_one_may_come_for_a_negated_one() -> None:
    built = automaton("root ::= !<x>* <x>")
    assert built.admitted(built.start)[:-1].all()
    assert built.is_whole(built.step_token(built.start, ord("x")))
    assert not built.is_whole(built.step_token(built.start, ord("y")))


# -- the way to the end ------------------------------------------------------------------------


def draw(plan: Plan, random: np.random.Generator, max_tokens: int) -> tuple[bytes, bool]:
    """Return a text as a sampler draws it that knows nothing, and whether it was ended by the model's token."""
    text = b""
    for _ in range(max_tokens):
        token = int(random.integers(len(PIECES)))
        if not plan.admits(token):
            among = np.flatnonzero(np.unpackbits(plan.admitted(), count=len(PIECES)))
            token = int(random.choice(among))
            if not plan.admits(token):
                token = plan.closing()
        plan.accept(token)
        if token == END:
            return text, True
        text += PIECES[token]
    return text, False


GRAMMARS = [
    JSON_TEXT,
    'root ::= [a-z0-9]+ "-end"',
    'root ::= "{" (pair ("," pair){0,50})? "}"\npair ::= [a-z]+ ":" (root | [0-9]+)',
    'root ::= "a" ("hello" | "b") root | "xyz" [\u4f60\u597d]{3}',
    'root ::= ("ab" | "abc") ("hello" [ \\n]*){2,}',
    'root ::= [^\\x00-\\x7F]{2,} "."',
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GRAMMARS), st.integers(0, 40), st.integers(0, 1 << 30))
def test_every_text_is_whole_within_its_tokens_whatever_is_drawn(
    grammar: str, more: int, seed: int
) -> None:
    needed = Plan(automaton(grammar), LEXICON, 1000).needed
    text, _ = draw(
        Plan(automaton(grammar), LEXICON, needed + more), np.random.default_rng(seed), needed + more
    )
    assert takes(grammar, text)


def test_a_text_that_cannot_fit_is_refused_with_the_tokens_it_takes() -> None:
    grammar = 'root ::= "hello" "hello" "ab" "c"'
    assert Plan(automaton(grammar), LEXICON, 3).needed == 3  # hello hello abc
    with pytest.raises(EngineError, match="takes 3 tokens, max_tokens is 2"):
        Plan(automaton(grammar), LEXICON, 2)
    with pytest.raises(EngineError, match="is longer than 16384 bytes"):
        Plan(automaton('root ::= ("hello"{900000000}){900000000}'), LEXICON, 1 << 20)


def test_a_plan_rebuilt_from_its_tokens_goes_on_as_the_first_would() -> None:
    random = np.random.default_rng(5)
    grammar, tokens = GRAMMARS[2], 60
    first = Plan(automaton(grammar), LEXICON, tokens)
    came: list[int] = []
    for _ in range(tokens):
        again = Plan(automaton(grammar), LEXICON, tokens)
        for token in came:
            again.accept(token)
        assert (again.admitted() == first.admitted()).all()
        assert again.closing() == first.closing()
        tried = random.integers(len(PIECES), size=20)
        assert [again.admits(int(one)) for one in tried] == [
            first.admits(int(one)) for one in tried
        ]
        among = np.flatnonzero(np.unpackbits(first.admitted(), count=len(PIECES)))
        token = int(random.choice(among))
        token = token if first.admits(token) else first.closing()
        if token == END:
            break
        came.append(token)
        first.accept(token)


def test_a_vocabulary_that_cannot_spell_everything_still_writes_what_it_can() -> None:
    pieces = [b'{"', b'":', b"}", b"a", b"b", b'"', b"1", b""]
    few = Lexicon(pieces, [7], 7)
    grammar = 'root ::= "{" "\\"" [a-z\u4f60]+ "\\":" [0-9]+ "}"'
    plan = Plan(automaton(grammar, few), few, 5)
    assert plan.needed == 5
    text = b""
    for _ in range(5):
        token = plan.closing()
        assert plan.admits(token)
        plan.accept(token)
        text += pieces[token]
    assert text == b'{"a":1}'
    assert plan.closing() == 7
    unspelled = Plan(
        automaton('root ::= "a" [\u4f60] "b"', few), few, 5
    )  # no plan, so whatever is admitted
    assert unspelled.needed == -1
    assert unspelled.admits(3)


@given(st.binary(max_size=40))
def test_a_text_is_covered_by_the_fewest_tokens(text: bytes) -> None:
    by_text = {b"a": 0, b"b": 1, b"ab": 2, b"bba": 3, b"abab": 4, b"c": 5}
    cut = bytes(b"abc"[byte % 3] for byte in text)
    found = cover_text(cut, by_text)
    assert found is not None
    names = {token: piece for piece, token in by_text.items()}
    assert b"".join(names[token] for token in found) == cut
    fewest = [0] + [99] * len(cut)
    for end in range(1, len(cut) + 1):
        fewest[end] = min(fewest[end - len(one)] + 1 for one in by_text if cut[:end].endswith(one))
    assert len(found) == fewest[-1]
    assert cover_text(b"z", by_text) is None
