"""A connection as a held task sees it: whatever is called over it is called in that task's name.

Who uses it: Task and AsyncTask, each over its own kind of connection. What must hold: every call that leaves
through a channel carries its task; all else is the connection's own.
"""

from __future__ import annotations

from typing import Any

from agentix.calls import Call


class Channel:
    """Calls of the task `task` over a client.Connection or an aio_client.AsyncConnection."""

    def __init__(self, connection: Any, task: int) -> None:
        self._connection = connection
        self._task = task

    def call(self, call: Call, timeout: float | None = None) -> Any:
        return self._connection.call(call._replace(task=self._task), timeout)

    def submit(self, call: Call, timeout: float | None = None) -> Any:
        return self._connection.submit(call._replace(task=self._task), timeout)

    def receive(self, timeout: float | None) -> Any:
        return self._connection.receive(timeout, self._task)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
