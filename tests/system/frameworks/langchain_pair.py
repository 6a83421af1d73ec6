"""A planner and a worker in LangChain: the planner delegates, the worker writes into a ledger."""

import sys
from pathlib import Path

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

ledger, model, order = Path(sys.argv[1]), sys.argv[2], sys.argv[3]


@tool
def add_entry(item: str) -> str:
    """Write an item into the ledger."""
    ledger.write_text(ledger.read_text() + item + "\n")
    return f"added {item}"


@tool
def delegate(task: str) -> str:
    """Have the worker do a task."""
    return run("You are a worker.", task, [add_entry])


def run(role: str, task: str, tools: list) -> str:
    chat = ChatOpenAI(model=model, temperature=0).bind_tools(tools)
    by_name = {one.name: one for one in tools}
    messages = [SystemMessage(role), HumanMessage(task)]
    while True:
        answer = chat.invoke(messages)
        messages.append(answer)
        if not answer.tool_calls:
            return str(answer.content)
        messages += [by_name[call["name"]].invoke(call) for call in answer.tool_calls]


print(run("You are a planner.", order, [delegate]))
