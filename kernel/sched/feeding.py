"""What a step feeds to each request that works in it: how many chunks of whose prompt, and who decodes beside them.

Who calls it: scheduler.py. Pure. What must hold: whoever works is fed after a bounded number of steps, and what rows a
context is fed in does not depend on what is decided here, only when.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kernel.engine.base import CHUNK_TOKENS
from kernel.objects import Request
from kernel.sched.charging import Charging
from kernel.sched.flight import Fed
from kernel.sched.groups import Groups
from kernel.sched.turns import step_rows

FEW = 6  # tokens of others, which take about as long as reading the weights once more


def chunks_within(gap: float, decode_ns: float, chunk_ns: float, least: int, most: int) -> int:
    """Return how many chunks a step may have so that it lasts `gap` times its decodes at most; at least `least`.

    gap: what those who decode put up with between two tokens, 0: anything.
    """
    if not gap or not decode_ns:
        return most
    return min(most, max(least, int((gap - 1) * decode_ns / chunk_ns)))


class Feeding:
    """Prompts in the policy's order, not side by side, and no more of them between two tokens than `prefill_tokens`.

    While all who want to work do, prompts go before others' next tokens: a first token waits for what was there before
    it, and the others' next one for no more prompts than one step may have anyway. With more work than slots
    a step does both, for a prompt's first token then fills a gap among the others' (turns.py); and with few others,
    for their tokens take little time and a pass less is made.

    Those who decode in the highest class do not wait with the ones below: they have their next tokens beside prompts,
    and between two of these the classes below read one chunk at most.
    """

    def __init__(self, prefill_tokens: int, groups: Groups, charging: Charging) -> None:
        self.most_chunks = max(1, prefill_tokens // CHUNK_TOKENS)
        self._groups = groups
        self._charging = charging
        self._chunks_in_a_row = 0  # since the last step that decoded

    def choose(self, working: Sequence[Request], is_everybody: bool, rescued: Collection[Request] = ()) -> Fed:
        """Return what each is fed, first come first; is_everybody: nobody waits for a slot."""
        most_chunks = self._within_gaps(working, rescued)
        below = _below_who_decodes(working)
        fed = self._rows(working, max(0, most_chunks - self._chunks_in_a_row), rescued, below)
        if not fed and self._chunks_in_a_row:
            fed = self._rows(working, most_chunks, rescued, below)
        chunks = sum(rows[-1][2] for _, rows in fed)
        waiting = {one for one, rows in fed if not rows[-1][2] and (one in below or not below) and one not in rescued}
        if chunks and is_everybody and len(waiting) > FEW:
            self._chunks_in_a_row += chunks
            return [(one, rows) for one, rows in fed if one not in waiting]
        self._chunks_in_a_row = 0
        return fed

    def _within_gaps(self, working: Sequence[Request], rescued: Collection[Request]) -> int:
        """Return how many chunks of prompts those who decode put up with; each of the rescued may have one."""
        reading = [request for request in working if request.kv_tokens < request.prompt_tokens]
        decoding = [request for request in working if request.kv_tokens >= request.prompt_tokens]
        gaps = {self._groups.effective(request.task.sched.group).gap for request in decoding} - {0.0}
        if not reading or not gaps:
            return self.most_chunks
        least = min(self.most_chunks, max(1, sum(request in rescued for request in reading)))
        decode_ns, chunk_ns = self._charging.decodes_ns(decoding), self._charging.chunk_ns(reading[0])
        return chunks_within(min(gaps), decode_ns, chunk_ns, least, self.most_chunks)

    @staticmethod
    def _rows(
        working: Sequence[Request], left: int, rescued: Collection[Request], below: Collection[Request]
    ) -> Fed:
        """Those first in order have as many chunks as there are; each of the rescued one, for others wait as long; and
        those below who decodes one among them."""
        fed = []
        left_below = 1
        for request in working:
            is_below = request in below and request not in rescued
            most = min(left, left_below) if is_below else min(left, 1) if request in rescued else left
            rows = step_rows(request.turns, request.kv_tokens, request.prompt_tokens, most)
            if rows:
                fed.append((request, rows))
                left -= rows[-1][2]
                left_below -= rows[-1][2] * is_below
        return fed


def _below_who_decodes(working: Sequence[Request]) -> set[Request]:
    """Return who works in a class below the highest one in which somebody decodes."""
    decoding = [one.task.sched.sched_class for one in working if one.kv_tokens >= one.prompt_tokens]
    return {one for one in working if decoding and one.task.sched.sched_class > min(decoding)}
