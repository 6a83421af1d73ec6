"""Requests to prove with: prompts of every length, and every way of drawing that keeps state.

Who calls it: prove_cases.py. What must hold: a spec is a function of the random numbers that it is drawn
from; a quarter each has a grammar, a penalty window, stop strings that are almost said, and nothing but
text whose characters are cut between tokens.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHORTEST = 40  # contexts: prompt and generated tokens
GENERATED = (24, 56)
GRAMMAR_TOKENS = 56  # at least: the shortest text of a schema may take half of them, letter by letter
KINDS = ("grammar", "penalties", "stop", "plain")
DECOY_END = "\x00\x01never"  # no model of ours says this: a stop string that is held and not found
STOP_LIMIT_CHARS = 200
_PROMPT_FROM, _PROMPT_BELOW = 300, 2000  # plain words in every model that we make

GRAMMARS = (
    'root ::= item (", " item)*\nitem ::= [a-z]+ | [0-9]+ "." [0-9] [0-9]',
    'root ::= line+\nline ::= [A-Z] [a-z \\u00e9\\u4e00-\\u4fff]+ ("." | "?") "\\n"',
    'root ::= "[" pair ("," pair)* "]"\npair ::= "(" [0-9]+ ";" (pair | [a-f]+) ")"',
)
SCHEMAS: tuple[dict[str, Any], ...] = (
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "count": {"type": "integer"},
            "kind": {"enum": ["one", "another", "third"]},
        },
        "required": ["name", "count", "kind"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 12}, "minItems": 2},
    {"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "boolean"}, {"const": None}]}},
)


@dataclass(frozen=True)
class Spec:
    """A request."""

    kind: str
    tokens: tuple[int, ...]
    options: dict[str, Any]

    @property
    def fields(self) -> dict[str, Any]:
        """What llm.generate is called with."""
        return {"tokens": list(self.tokens), "stream": True, **self.options}


def draw_specs(count: int, longest: int, vocab: int, draw: random.Random) -> list[Spec]:
    """Return `count` requests with contexts spread evenly in the logarithm, up to `longest` tokens."""
    return [
        _spec(number, SHORTEST * (longest / SHORTEST) ** ((number + draw.random()) / count), vocab, draw)
        for number in draw.sample(range(count), count)  # a part of them is spread as well
    ]


def _spec(number: int, context: float, vocab: int, draw: random.Random) -> Spec:
    kind = KINDS[number % len(KINDS)]
    generated = min(draw.randint(*GENERATED), math.floor(context) // 2)
    words = range(_PROMPT_FROM, min(_PROMPT_BELOW, vocab))
    tokens = tuple(draw.choice(words) for _ in range(math.floor(context) - generated))
    if kind == "grammar":
        generated = max(generated, GRAMMAR_TOKENS)
    options = {"max_tokens": generated, **draw_options(kind, draw), **_sampling(words, draw)}
    return Spec(kind, tokens, options)


def draw_options(kind: str, draw: random.Random) -> dict[str, Any]:
    """Return what makes a request one of its kind; some others have penalties too."""
    options: dict[str, Any] = {"ignore_end": kind != "grammar"}
    if kind == "grammar":
        options |= draw.choice([_grammar, _schema])(draw)
    if kind == "penalties" or draw.random() < 0.1:
        options |= _penalties(draw)
    return options


def _grammar(draw: random.Random) -> dict[str, Any]:
    return {"grammar": draw.choice(GRAMMARS)}


def _schema(draw: random.Random) -> dict[str, Any]:
    return {"json_schema": json.dumps(draw.choice(SCHEMAS))}


def _penalties(draw: random.Random) -> dict[str, Any]:
    return {
        "repeat_penalty": draw.choice([1.1, 1.3]),
        "presence_penalty": draw.choice([0.0, 0.6]),
        "frequency_penalty": draw.choice([0.0, 0.4]),
        "penalty_tokens": draw.choice([8, 64, 300]),
    }


def _sampling(words: Sequence[int], draw: random.Random) -> dict[str, Any]:
    """Return how to draw: greedily, or one of the ways of drawing at random."""
    options: dict[str, Any] = {"logprobs": 2} if draw.random() < 0.3 else {}
    if draw.random() < 0.2:
        options["logit_bias"] = {str(token): draw.choice([-100, -2.5, 3]) for token in draw.sample(words, 5)}
    if draw.random() < 0.4:
        return options
    filters = draw.choice([{"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.05}, {"typical_p": 0.8}, {"top_k": 0}])
    return options | {"temperature": draw.choice([0.7, 1.1]), "seed": draw.randrange(1 << 30), **filters}


def stops_within(text: str, draw: random.Random) -> list[str]:
    """Return stop strings made of a text itself: a long one that it almost says, and one that it does."""
    if len(text) < 24:
        return []
    begin = draw.randrange(len(text) // 4)
    end = min(begin + STOP_LIMIT_CHARS, len(text) - len(text) // 8)
    stops = [text[begin:end] + DECOY_END]
    if draw.random() < 0.5:
        at = len(text) - len(text) // 8 - 4
        stops.append(text[at : at + 6])
    return stops
