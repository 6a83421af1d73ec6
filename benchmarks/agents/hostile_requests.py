"""Sends one kind of hostile request over and over until a file exists; records how each ended and how long it took.

Settings: attack (a name in ATTACKS), until (the file). What the kernel refuses is counted by its error.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import settings, write

from agentix import Agent, AgentixError, calls

ATTEMPT_S = 30.0  # that one request may take before it is given up
Body = dict[str, Any]


def generate(**fields: Any) -> Body:
    return {"prompt": "hello", "max_tokens": 64} | fields


def nested(depth: int) -> str:
    return "root ::= " + "(" * depth + '"a"' + ")" * depth


def schema(**fields: Any) -> str:
    return json.dumps(fields)


def exponential_grammar() -> str:
    """Each rule twice the one before it: 2^24 ways to read the same letters."""
    rules = ['r0 ::= "a" | "a" "a"', *(f"r{at} ::= r{at - 1} r{at - 1} | r{at - 1}" for at in range(1, 25))]
    return "\n".join(["root ::= r24", *rules])


ATTACKS: dict[str, Callable[[], Body]] = {
    "exponential grammar": lambda: generate(grammar=exponential_grammar(), temperature=1.0),
    "left recursion": lambda: generate(grammar='root ::= root "a" | "a"'),
    "empty recursion": lambda: generate(grammar='root ::= a b\na ::= b | ""\nb ::= a | ""'),
    "deep grammar": lambda: generate(grammar=nested(20_000)),
    "million repetitions": lambda: generate(grammar='root ::= ("a" | "b"){1000000,2000000}'),
    "nested repetitions": lambda: generate(grammar='root ::= ((("a"{1,999}){1,999}){1,999}){1,999}'),
    "grammar without root": lambda: generate(grammar='first ::= "a"'),
    "grammar with an unknown rule": lambda: generate(grammar="root ::= nothing"),
    "grammar of bad UTF-8 escapes": lambda: generate(grammar='root ::= "\\uD800" | "\\xFF" | [\\U0010FFFF-a]'),
    "grammar that is none": lambda: generate(grammar='root ::= "' + "a" * 60_000),
    "schema that refers to itself": lambda: generate(
        json_schema=schema(**{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})
    ),
    "schema from elsewhere": lambda: generate(json_schema=schema(**{"$ref": "http://127.0.0.1:9/x.json"})),
    "deep schema": lambda: generate(
        json_schema='{"type":"array","items":' * 900 + "{}" + "}" * 900
    ),
    "schema of a billion items": lambda: generate(
        json_schema=schema(type="array", items={"type": "integer"}, minItems=10**9)
    ),
    "catastrophic pattern": lambda: generate(json_schema=schema(type="string", pattern="^((a+)+)+$")),
    "100,000 stop strings": lambda: generate(stop=["x"] * 100_000),
    "1,000,000 biases": lambda: generate(logit_bias={str(at): 1.0 for at in range(1_000_000)}),
    "1,000 biases": lambda: generate(logit_bias={str(at): -100.0 for at in range(1_000)}),
    "10,000,000 characters": lambda: generate(prompt="a" * 10_000_000),
    "3,900,000 characters": lambda: generate(prompt="a" * 3_900_000),
    "3,000,000 mixed characters": lambda: generate(prompt="".join(map(chr, range(33, 3033))) * 800),
    "unknown tokens": lambda: generate(prompt=None, tokens=[1, 2, 1 << 30]),
    "negative tokens": lambda: generate(prompt=None, tokens=[-1]),
    "NaN temperature": lambda: generate(temperature=math.nan),
    "infinite penalty": lambda: generate(repeat_penalty=math.inf),
    "tiny temperature": lambda: generate(temperature=1e-300, top_p=0.0, min_p=1.0),
    "message of one million words": lambda: generate(
        prompt=None, messages=[{"role": "user", "content": "word " * 700_000}]
    ),
    "jinja in a message": lambda: generate(
        prompt=None, messages=[{"role": "user", "content": "{% for i in range(10**9) %}x{% endfor %}"}]
    ),
    "tools without end": lambda: generate(
        prompt=None, messages=[{"role": "user", "content": "x"}], tools=[{"type": "function"}] * 700
    ),
    "64 requests at once": lambda: generate(tokens=[1] * 500, prompt=None, max_tokens=100),
}


if __name__ == "__main__":
    with Agent("hostile") as me:
        attack, until = settings["attack"], Path(settings["until"])
        ended: Counter[str] = Counter()
        longest_s = 0.0
        write("ready", {})
        body = {name: value for name, value in ATTACKS[attack]().items() if value is not None}
        while not until.exists():
            began = time.monotonic()
            try:
                if attack == "64 requests at once":
                    prompt = body["tokens"]
                    pending = [me.llm.submit(prompt, max_tokens=body["max_tokens"]) for _ in range(64)]
                    for one in pending:
                        one.result(ATTEMPT_S)
                else:
                    me._connection.call(calls.plain("llm.generate", **body), ATTEMPT_S)
                ended["an answer"] += 1
            except AgentixError as error:
                ended[f"{type(error).__name__}: {str(error)[:120]}"] += 1
            longest_s = max(longest_s, time.monotonic() - began)
        write("json", {"ended": ended, "longest_s": longest_s})
