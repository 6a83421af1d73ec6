"""What a step feeds to each request that works in it: how many chunks of whose prompt, and who decodes beside them.

Who calls it: scheduler.py. Pure. What must hold: whoever works is fed after a bounded number of steps, and what rows a
context is fed in does not depend on what is decided here, only when.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernel.engine.base import CHUNK_TOKENS
from kernel.objects import Request
from kernel.sched.turns import step_rows

FEW = 6  # tokens of others, which take about as long as reading the weights once more

Fed = list[tuple[Request, list[tuple[int, int, int]]]]  # the rows of each request, as step_rows gives them


class Feeding:
    """Prompts in the policy's order, not side by side, and no more of them between two tokens than `prefill_tokens`.

    While all who want to work do, prompts go before others' next tokens: a first token waits for what was there before
    it, and the others' next one for no more prompts than one step may have anyway. With more work than slots
    a step does both, for a prompt's first token then fills a gap among the others' (turns.py); and with few others,
    for their tokens take little time and a pass less is made.
    """

    def __init__(self, prefill_tokens: int) -> None:
        self._most_chunks = max(1, prefill_tokens // CHUNK_TOKENS)
        self._chunks_in_a_row = 0  # since the last step that decoded

    def choose(self, working: Sequence[Request], is_everybody: bool) -> Fed:
        """Return what each is fed, first come first; is_everybody: nobody waits for a slot."""
        fed = self._rows(working, self._most_chunks - self._chunks_in_a_row)
        if not fed and self._chunks_in_a_row:
            self._chunks_in_a_row = 0
            fed = self._rows(working, self._most_chunks)
        prompts = [(request, rows) for request, rows in fed if rows[-1][2]]
        if prompts and is_everybody and len(fed) - len(prompts) > FEW:
            self._chunks_in_a_row += sum(rows[-1][2] for _, rows in prompts)
            return prompts
        self._chunks_in_a_row = 0
        return fed

    @staticmethod
    def _rows(working: Sequence[Request], left: int) -> Fed:
        fed = []
        for request in working:
            rows = step_rows(request.turns, request.kv_tokens, request.prompt_tokens, left)
            if rows:
                fed.append((request, rows))
                left -= rows[-1][2]
        return fed
