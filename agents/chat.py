"""A chat over several turns: each turn sees what was said before.

    agentix run agents/chat.py [SEED] [TURNS] [TOKENS]
"""

from agentix import Agent
from transcript import Transcript, numbers

QUESTIONS = (
    "What does an operating system do?",
    "Why does it take the processor away from a program?",
    "And what must it keep to give it back?",
    "Say it in one short sentence.",
)
KEPT_MESSAGES = 8  # of the history: the window is finite


def main() -> None:
    seed, turns, tokens = numbers(1, 3, 48)
    transcript = Transcript()
    history: list[dict[str, str]] = []
    with Agent() as me:
        for turn in range(turns):
            question = QUESTIONS[turn % len(QUESTIONS)]
            history = [*history, {"role": "user", "content": question}][-KEPT_MESSAGES:]
            reply = me.llm.chat(history, max_tokens=tokens, temperature=0.8, seed=seed + turn)
            history.append({"role": "assistant", "content": transcript.add(reply.content)})
            print(f"> {question}\n{reply.content}", flush=True)
        transcript.report()


main()
