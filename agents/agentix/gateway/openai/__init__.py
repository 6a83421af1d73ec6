"""The API of OpenAI: chat and text completions, embeddings, models."""
