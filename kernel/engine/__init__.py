"""The LLM core: building llama.cpp for this machine, driving it, and a deterministic stand-in for tests.

Importing this package does nothing: `install.py` and `build.py` are imported from here by a Python that has
no dependency installed yet, and only `llama.py` may import llama_cpp.
"""
