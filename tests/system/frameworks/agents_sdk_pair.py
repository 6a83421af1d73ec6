"""The same in OpenAI's Agents SDK, streamed."""

import asyncio
import sys
from pathlib import Path

from openai import AsyncOpenAI

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled

ledger, model, order = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
set_tracing_disabled(True)
chat = OpenAIChatCompletionsModel(model=model, openai_client=AsyncOpenAI())


@function_tool
def add_entry(item: str) -> str:
    """Write an item into the ledger."""
    ledger.write_text(ledger.read_text() + item + "\n")
    return f"added {item}"


worker = Agent(name="worker", instructions="You are a worker.", model=chat, tools=[add_entry])


@function_tool
async def delegate(task: str) -> str:
    """Have the worker do a task."""
    return (await Runner.run(worker, task)).final_output


async def main() -> None:
    planner = Agent(name="planner", instructions="You are a planner.", model=chat, tools=[delegate])
    result = Runner.run_streamed(planner, order)
    async for _ in result.stream_events():
        pass
    print(result.final_output)


asyncio.run(main())
