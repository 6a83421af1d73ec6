"""The text side of an LLM core: tokens, chat templates and constraints, in processes of their own."""
