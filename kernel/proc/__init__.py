"""Processes of agents: starting and ending them, and what they use."""
