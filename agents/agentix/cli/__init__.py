"""The `agentix` command. Start at `__main__`; each command is a function of a file beside it."""
