"""The texts of the tokens that logprobs name.

Who uses it: the shapes of OpenAI's API; gateway.py asks the kernel for what is missing. One for each request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Pieces:
    """The texts of tokens, as far as they are known; a request's logprobs name tokens by them."""

    def __init__(self) -> None:
        self._raw: dict[int, bytes] = {}

    def missing(self, rows: Sequence[Mapping[str, Any]]) -> set[int]:
        """The tokens of these rows whose texts are not known yet."""
        named = {row["token"] for row in rows} | {token for row in rows for token, _ in row["top"]}
        return named - self._raw.keys()

    def put(self, token: int, raw: bytes) -> None:
        self._raw[token] = raw

    def text(self, token: int) -> str:
        return self._raw.get(token, b"").decode(errors="replace")

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Logprobs as a chat has them."""

        def entry(token: int, logprob: float) -> dict[str, Any]:
            raw = self._raw.get(token, b"")
            return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}

        content = [
            entry(row["token"], row["logprob"])
            | {"top_logprobs": [entry(token, value) for token, value in row["top"]]}
            for row in rows
        ]
        return {"content": content, "refusal": None}
