"""Best of N: a draft is revised N ways at once, in forks that share its context, and the likeliest revision goes on.

    agentix run agents/best_of.py [SEED] [ROUNDS] [TOKENS] [N]
"""

import asyncio

from agentix import AsyncAgent
from transcript import Transcript, numbers


def likelihood(reply) -> float:
    """The mean log probability of an answer's tokens."""
    logprobs = [token["logprob"] for token in reply.raw.logprobs]
    return sum(logprobs) / max(1, len(logprobs))


async def main() -> None:
    seed, rounds, tokens, ways = numbers(1, 2, 48, 4)
    transcript = Transcript()
    options = {"max_tokens": tokens, "temperature": 0.9, "logprobs": 0}
    async with AsyncAgent() as me, me.session("You write slogans.", **options) as talk:
        draft = await talk.say("Write a slogan for an operating system.", seed=seed)
        print(f"draft: {transcript.add(draft.content)}", flush=True)
        for number in range(rounds):
            forks = await talk.fork(ways)
            said = [
                fork.say("Say it better.", seed=seed + 1 + number * ways + way) for way, fork in enumerate(forks)
            ]
            replies = await asyncio.gather(*said)
            best = max(range(ways), key=lambda way: likelihood(replies[way]))
            await forks[best].commit()
            for fork in forks:
                await fork.close()
            print(f"way {best + 1} of {ways}: {transcript.add(replies[best].content)}", flush=True)
        transcript.report()


asyncio.run(main())
