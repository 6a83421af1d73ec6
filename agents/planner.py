"""A planner: it spawns workers, sends each a task every turn, gathers their answers, and sums them up.

    agentix run agents/planner.py [SEED] [TURNS] [TOKENS] [WORKERS]
"""

import json
from pathlib import Path

from agentix import Agent, Exit
from transcript import Transcript, numbers

WORKER = Path(__file__).with_name("worker.py")
SHOWN_CHARS = 200  # of a worker's answer, in the prompt of the summary


def summary(child: Exit) -> dict[str, object]:
    """A worker's end and its own last line, for our report."""
    lines = [line for line in child.tail.splitlines() if line.startswith("agentix-report ")]
    own = json.loads(lines[-1].split(" ", 1)[1]) if lines else {}
    kept = {"pid": child.pid, "name": child.name, "status": child.status, "usage": child.usage}
    return kept | own


def main() -> None:
    seed, turns, tokens, count = numbers(1, 3, 48, 2)
    transcript = Transcript()
    with Agent() as me:
        workers = [
            me.spawn(WORKER, seed + 100 * number, tokens, name=f"worker-{seed}-{number}")
            for number in range(1, count + 1)
        ]
        for turn in range(turns):
            for number, worker in enumerate(workers, 1):
                worker.send({"task": f"step {turn + 1}, part {number} of {count}"})
            messages = {}
            for _ in workers:
                message = me.recv()
                messages[message.sender] = message.data["answer"]
            answers = [messages[worker.pid][:SHOWN_CHARS] for worker in workers]  # whoever was first
            prompt = f"Turn {turn + 1}. Answers: {' / '.join(answers)}\nSummary:"
            reply = me.llm.generate(prompt, max_tokens=tokens, temperature=0.6, seed=seed + turn)
            print(f"summary: {transcript.add(reply.text)}", flush=True)
        for worker in workers:
            worker.send(None)
        ends = [worker.wait() for worker in workers]
        transcript.report(children=[summary(end) for end in ends])


main()
