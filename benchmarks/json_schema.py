"""Texts drawn at random under JSON schemas: every one valid and whole, and what the grammar costs a token.

The schemas are those of the public JSON Schema Test Suite that a grammar can hold, and as many made by a seed.
Logits are random numbers, which is the hardest case: nearly every token drawn is one that the grammar refuses.
The text side, its processes and the sampler are the real ones. What is refused is refused by name before the
first token; llama.cpp's own converter is asked for comparison which it takes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jsonschema
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf

from benchmarks.json_schema_cases import made_schema, public_schemas
from benchmarks.models import cache_dir, model_path
from benchmarks.report import Row, at_least, must, only, percentile
from kernel.engine.base import Constraint, EngineError, Opening, Sampling
from kernel.engine.sampler import Sampler
from kernel.engine.samplestate import Drawing
from kernel.engine.textside.client import TextSide
from kernel.engine.textside.vocabulary import Vocabulary

MAX_TOKENS = 256
AT_ONCE = 8
PUBLIC_BAR = 200
_DRAWS = 2  # texts of each schema
_REFUSED = (
    "json_schema",
    "grammar: no text",
    "the shortest text",
)  # before the first token, by name


class Text(NamedTuple):
    schema: Any
    text: bytes
    tokens: int
    error: str  # why there is none


def run(quick: bool) -> list[Row]:
    path = str(model_path())
    public = public_schemas(cache_dir().parent)
    made = [made_schema(seed) for seed in range(30 if quick else 300)]
    rows = []
    if public is None:
        rows.append(only("public schemas", "not at hand: no network"))
    else:
        public = public[::10] if quick else public
        rows += _rows("public", public, path, 0 if quick else PUBLIC_BAR)
        taken = sum(map(_converts, public))
        rows.append(only("of these llama.cpp's converter takes, right or wrong", taken))
    rows += _rows("made", made, path, 0)
    for shape in ("default",) if quick else ("default", "smollm2-135m"):
        rows += _costs(str(model_path(shape)))
    return rows


def _rows(kind: str, schemas: Sequence[Any], path: str, bar: int) -> list[Row]:
    began_s = time.monotonic()
    texts = [text for draw in range(_DRAWS) for text in draw_texts(schemas, path, draw)]
    took_s = time.monotonic() - began_s
    drawn = [one for one in texts if not one.error.startswith(_REFUSED)]
    wrong = [one for one in drawn if one.error or not is_valid(one)]
    count = len(drawn) // _DRAWS
    shown = f"{len(drawn) - len(wrong)} of {len(drawn)}"
    shown += "".join(f"; {one.error or one.text[:60]!r}" for one in wrong[:2])
    return [
        at_least(f"{kind} schemas that a grammar holds", count, bar, f"of {len(schemas)}"),
        must(f"texts of {kind} schemas that are whole and valid", shown, "all", not wrong),
        only(
            f"tokens a second, {AT_ONCE} texts at once",
            f"{sum(one.tokens for one in texts) / took_s:.0f}",
        ),
    ]


def draw_texts(schemas: Sequence[Any], path: str, seed: int) -> list[Text]:
    """Return one text of each schema, drawn from random logits at temperature 1."""
    vocabulary = Vocabulary(path)
    sampler = Sampler(vocabulary.size, 1)
    noise = np.random.default_rng(seed)
    side = TextSide(path)
    try:
        found = []
        for first in range(0, len(schemas), AT_ONCE):
            found += _draw_some(
                schemas[first : first + AT_ONCE], first, vocabulary, sampler, side, noise
            )
        return found
    finally:
        side.close()


def _draw_some(
    schemas: Sequence[Any],
    first: int,
    vocabulary: Vocabulary,
    sampler: Sampler,
    side: TextSide,
    noise: np.random.Generator,
) -> list[Text]:
    drawings: list[Drawing | None] = []
    for number, schema in enumerate(schemas, first):
        opening = Opening(
            request=number,
            slot=number - first,
            sampling=Sampling(temperature=1.0, top_k=0, seed=number),
            constraint=Constraint("json_schema", json.dumps(schema)),
            tokens=(),
            generated=0,
            max_tokens=MAX_TOKENS,
            with_special=False,
        )
        drawings.append(Drawing(opening, vocabulary.size, side.open_gate(opening)))
    texts, counts, errors = ([start] * len(schemas) for start in (b"", 0, ""))
    for position in range(MAX_TOKENS):
        logits = noise.standard_normal((len(schemas), vocabulary.size), dtype=np.float32)
        for row, drawn in enumerate(sampler.draw(logits, drawings, [position] * len(schemas))):
            if isinstance(drawn, EngineError):
                errors[row], drawings[row] = str(drawn), None
            elif drawn is not None:
                texts[row] += vocabulary.pieces[drawn.token]
                counts[row] += 1
                if drawn.token in vocabulary.ends:
                    drawings[row] = None
    for number in range(first, first + len(schemas)):
        side.close_request(number)
    return [Text(*fields) for fields in zip(schemas, texts, counts, errors, strict=True)]


def is_valid(one: Text) -> bool:
    """Whether a text is JSON that its schema holds for, by the jsonschema package."""
    try:
        value = json.loads(one.text)
    except ValueError:
        return False
    return bool(jsonschema.Draft202012Validator(one.schema).is_valid(value))


def _converts(schema: Any) -> bool:
    try:
        return bool(json_schema_to_gbnf(json.dumps(schema)))
    except Exception:  # it raises half a dozen classes
        return False


def _costs(path: str) -> list[Row]:
    """Time what a step waits for: questions to the process of one grammar, inside a string."""
    size = f"of {Vocabulary(path).size:,} tokens"
    side = TextSide(path)
    try:
        schema = {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
        }
        constraint = Constraint("json_schema", json.dumps(schema))
        gate = side.open_gate(Opening(1, 0, Sampling(), constraint, (), 0, 4096, False))
        for _ in range(12):  # into the string
            gate.accept(gate.closing())
        times: dict[str, list[int]] = {"admits": [], "admitted": []}
        for token in range(200):
            for name, ask in (
                ("admits", lambda token=token: gate.admits(token)),
                ("admitted", gate.admitted),
            ):
                began_ns = time.monotonic_ns()
                ask()
                times[name].append(time.monotonic_ns() - began_ns)
        return [only(f"one {name} {size}, p50, p99", _shown(one)) for name, one in times.items()]
    finally:
        side.close()


def _shown(times_ns: list[int]) -> str:
    return f"{percentile(times_ns, 0.5) / 1e3:.0f}, {percentile(times_ns, 0.99) / 1e3:.0f} us"
