"""The API of Ollama: chat, generate, embed, and what tells of models."""
