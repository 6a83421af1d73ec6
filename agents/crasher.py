"""Misbehaves: generates a little, prints, and dies of an exception while a request is in flight.

    agentix run agents/crasher.py
"""

from agentix import Agent

with Agent("crasher") as me:
    print(me.llm.generate("All goes well", max_tokens=8).text, flush=True)
    left_behind = me.llm.submit("This will never be read", max_tokens=1000)
    raise RuntimeError("crasher crashed, as it does")
