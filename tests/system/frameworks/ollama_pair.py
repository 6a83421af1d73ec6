"""The same with the ollama package, a loop by hand."""

import sys
from pathlib import Path

import ollama

ledger, model, order = Path(sys.argv[1]), sys.argv[2], sys.argv[3]


def add_entry(item: str) -> str:
    """Write an item into the ledger.

    Args:
        item: what to write
    """
    ledger.write_text(ledger.read_text() + item + "\n")
    return f"added {item}"


def delegate(task: str) -> str:
    """Have the worker do a task.

    Args:
        task: what to do
    """
    return run("You are a worker.", task, [add_entry])


def run(role: str, task: str, tools: list) -> str:
    by_name = {one.__name__: one for one in tools}
    messages = [{"role": "system", "content": role}, {"role": "user", "content": task}]
    while True:
        answer = ollama.chat(model, messages, tools=tools).message
        messages.append(answer)
        if not answer.tool_calls:
            return answer.content
        for call in answer.tool_calls:
            result = by_name[call.function.name](**call.function.arguments)
            messages.append({"role": "tool", "tool_name": call.function.name, "content": result})


print(run("You are a planner.", order, [delegate]))
