"""Tree search: a plan grows step by step in forks of one conversation; the best few branches go on at each depth.

    agentix run agents/tree_search.py [SEED] [DEPTH] [TOKENS] [WIDTH]
"""

import asyncio
from typing import NamedTuple

from agentix import AsyncAgent
from transcript import Transcript, numbers

BRANCHES = 2  # of each kept one


class Branch(NamedTuple):
    """A conversation, and the log probability of all that was answered in it."""

    talk: object
    score: float
    steps: tuple[str, ...]


async def grow(branch: Branch, seed: int) -> list[Branch]:
    """Let a branch go on in several ways."""
    forks = await branch.talk.fork(BRANCHES)
    replies = await asyncio.gather(*(fork.say("The next step?", seed=seed + n) for n, fork in enumerate(forks)))
    found = []
    for fork, reply in zip(forks, replies, strict=True):
        score = sum(token["logprob"] for token in reply.raw.logprobs)
        found.append(Branch(fork, branch.score + score, (*branch.steps, reply.content)))
    return found


async def main() -> None:
    seed, depth, tokens, width = numbers(1, 3, 24, 2)
    transcript = Transcript()
    options = {"max_tokens": tokens, "temperature": 0.9, "logprobs": 0}
    async with AsyncAgent() as me, me.session("You plan in short steps.", **options) as talk:
        first = await talk.say("We want to run many agents on one machine. The first step?", seed=seed)
        kept = [Branch(talk, 0.0, (first.content,))]
        for level in range(depth):
            found = await asyncio.gather(
                *(grow(one, seed + 100 * (level + 1) + 10 * n) for n, one in enumerate(kept))
            )
            ranked = sorted((one for several in found for one in several), key=lambda one: -one.score)
            for lost in ranked[width:]:
                await lost.talk.close()
            kept = ranked[:width]
            print(f"depth {level + 1}: best of {len(ranked)} has {kept[0].score:.1f}", flush=True)
        best = kept[0]
        for step in best.steps:
            print(f"- {transcript.add(step)}", flush=True)
        transcript.report()


asyncio.run(main())
