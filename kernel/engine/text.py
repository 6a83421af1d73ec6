"""Bytes of tokens to text that may be shown: whole characters only, nothing past a stop string.

Who calls it: the kernel, once for each generated token. What must hold: what was emitted, in order, is
the text of all tokens decoded at once and cut before the first stop string.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextAssembler:
    """The text of one request. `feed` returns what may be sent now; `stopped` says a stop was found."""

    __slots__ = ("_decoder", "_held", "_parts", "_stops", "stopped")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""  # might be the start of a stop string
        self._parts: list[str] = []  # all that was emitted
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Add a token's bytes; return the text that became certain, possibly empty."""
        return self._emit(self._decoder.decode(piece), is_last=False)

    def finish(self) -> str:
        """Return what was still held back; an unfinished character becomes U+FFFD."""
        if self.stopped:
            return ""
        return self._emit(self._decoder.decode(b"", final=True), is_last=True)

    @property
    def text(self) -> str:
        """All text emitted so far."""
        return "".join(self._parts)

    @property
    def is_holding(self) -> bool:
        """Whether the last token ended inside a character or a possible stop string."""
        return bool(self._held or self._decoder.getstate()[0])

    def _emit(self, new: str, is_last: bool) -> str:
        if not self._stops:
            if new:
                self._parts.append(new)
            return new
        text = self._held + new
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            self._held, ready = "", text[: min(found)]
        else:
            keep = 0 if is_last else self._overlap(text)
            self._held, ready = text[len(text) - keep :], text[: len(text) - keep]
        if ready:
            self._parts.append(ready)
        return ready

    def _overlap(self, text: str) -> int:
        """Return the length of the longest end of `text` that a stop string starts with."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
