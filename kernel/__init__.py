"""The agentix kernel: one process that schedules LLM generation and owns every agent's context.

Importing this package does nothing and needs nothing installed: set-up imports parts of it before the
dependencies exist. Start at `kernel.boot` to read how the parts are put together.
"""
