"""The same in smolagents, whose agents must call a tool in every step."""

import os
import sys
from pathlib import Path

from smolagents import OpenAIServerModel, ToolCallingAgent, tool

ledger, model, order = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
chat = OpenAIServerModel(model, api_base=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"])


@tool
def add_entry(item: str) -> str:
    """Write an item into the ledger.

    Args:
        item: what to write
    """
    ledger.write_text(ledger.read_text() + item + "\n")
    return f"added {item}"


@tool
def delegate(task: str) -> str:
    """Have the worker do a task.

    Args:
        task: what to do
    """
    return str(ToolCallingAgent(tools=[add_entry], model=chat, max_steps=4, verbosity_level=0).run(task))


print(ToolCallingAgent(tools=[delegate], model=chat, max_steps=4, verbosity_level=0).run(order))
