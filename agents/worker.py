"""A worker: it answers each task that another agent sends it, until it is sent None.

    me.spawn("agents/worker.py", SEED, TOKENS)     # from a planner
"""

from agentix import Agent
from transcript import Transcript, numbers


def main() -> None:
    seed, tokens = numbers(1, 48)
    transcript = Transcript()
    with Agent() as me:
        while (message := me.recv()).data is not None:
            prompt = f"Task: {message.data['task']}\nAnswer:"
            sampling_seed = seed + transcript.turns
            reply = me.llm.generate(prompt, max_tokens=tokens, temperature=0.8, seed=sampling_seed)
            me.send(message.sender, {"answer": transcript.add(reply.text)})
        transcript.report()


main()
