"""A ReAct agent: it thinks with the model, acts with a tool, reads what the tool says, and thinks on.

    agentix run agents/react.py [SEED] [TURNS] [TOKENS]

The tools are plain Python functions. The default model's weights are random and name no tool, so then the
text's length chooses one: the shape of the work is what counts here.
"""

from __future__ import annotations

from agentix import Agent
from transcript import Transcript, numbers

KEPT_CHARS = 1200  # of the scratchpad: the window is finite


def primes(text: str) -> str:
    limit = 2000 + len(text)
    found = [n for n in range(2, limit) if all(n % d for d in range(2, int(n**0.5) + 1))]
    return f"there are {len(found)} primes below {limit}"


def count(text: str) -> str:
    return f"that was {len(text.split())} words"


def add(text: str) -> str:
    digits = [int(char) for char in text if char.isdecimal()]
    return f"{' + '.join(map(str, digits)) or 0} = {sum(digits)}"


TOOLS = {tool.__name__: tool for tool in (primes, count, add)}


def choose(thought: str) -> str:
    named = [name for name in TOOLS if name in thought]
    return named[0] if named else list(TOOLS)[len(thought) % len(TOOLS)]


def main() -> None:
    seed, turns, tokens = numbers(1, 3, 48)
    transcript = Transcript()
    with Agent() as me:
        question = f"Tools: {', '.join(TOOLS)}. Question: how many agents fit?\n"
        scratchpad = ""
        for turn in range(turns):
            prompt = f"{question}{scratchpad[-KEPT_CHARS:]}Thought:"
            reply = me.llm.generate(prompt, max_tokens=tokens, temperature=0.7, seed=seed + turn)
            thought = transcript.add(reply.text)
            name = choose(thought)
            observation = TOOLS[name](thought)
            scratchpad += f"Thought:{thought}\nAction: {name}\nObservation: {observation}\n"
            print(f"thought: {thought}\naction: {name} -> {observation}", flush=True)
        transcript.report()


main()
