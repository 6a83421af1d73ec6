"""The same in AutoGen."""

import asyncio
import sys
from pathlib import Path

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

ledger, model, order = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
able = {"vision": False, "function_calling": True, "json_output": True, "structured_output": True, "family": "unknown"}


def client() -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(model=model, model_info=able)


async def add_entry(item: str) -> str:
    """Write an item into the ledger."""
    ledger.write_text(ledger.read_text() + item + "\n")
    return f"added {item}"


async def delegate(task: str) -> str:
    """Have the worker do a task."""
    worker = AssistantAgent("worker", client(), tools=[add_entry], reflect_on_tool_use=True)
    return str((await worker.run(task=task)).messages[-1].content)


async def main() -> None:
    planner = AssistantAgent("planner", client(), tools=[delegate], reflect_on_tool_use=True)
    print((await planner.run(task=order)).messages[-1].content)


asyncio.run(main())
