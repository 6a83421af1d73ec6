"""agentix.gateway: an HTTP server whose every client is a task of the kernel.

An ordinary agent with the capability task.create: it holds a task for each API key, or for each conversation
without one, and makes their calls. Nothing in here is known to the kernel, and nothing but the SDK is imported
from it. Needs the extra `http`.
"""
