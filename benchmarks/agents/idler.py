"""Says hello and waits for a message that does not come."""

from record import write

from agentix import Agent

with Agent("idler") as me:
    write("ready", {})
    me.recv()
