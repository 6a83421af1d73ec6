"""Memory shared between processes. Knows nothing of the kernel, of agents or of models."""
