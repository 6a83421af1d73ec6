"""A first agent: it streams one line from the model.

    agentix run agents/hello.py "Once upon a time"
"""

import sys

from agentix import Agent

prompt = sys.argv[1] if len(sys.argv) > 1 else "Once upon a time"
with Agent("hello") as me:
    print(prompt, end="", flush=True)
    for piece in me.llm.stream(prompt, max_tokens=40):
        print(piece, end="", flush=True)
    print()
