"""The text side's process: has questions about text answered with the model's vocabulary, whatever they ask.

Who starts it: client.py in the LLM core, by exec, with one end of a socketpair; it never computes with the model, so
that it may fork. What must hold: it does nothing itself that a question, a template or a grammar could make
long or deadly: that is done in forked children with limits; when the core's end closes, all are gone.

Exit status 0: the core went away or the file was refused (said as FATAL).
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import signal
import socket
import sys
from collections import deque
from typing import Any

from kernel.engine.base import Constraint, EngineError
from kernel.engine.link import (
    ANSWER,
    ASK,
    FATAL,
    MAX_DESCRIPTORS,
    READ_BYTES,
    READY,
    Unframer,
    frame,
)
from kernel.engine.textside.gatechild import tokens_needed
from kernel.engine.textside.gates import CLOSE_GATE, GATE_ENDED, OPEN_GATE, Gates
from kernel.engine.textside.jobs import Jobs
from kernel.engine.textside.lexicon import Lexicon
from kernel.engine.textside.process import become_private
from kernel.engine.textside.templates import Templates
from kernel.engine.textside.vocabulary import Vocabulary

FACTS = 0  # the ticket of the server's own question


class Server:
    """One model's vocabulary and templates, and whoever asks."""

    def __init__(self, link: socket.socket, path: str) -> None:
        self._link = link
        self._unframer = Unframer()
        self._descriptors: deque[int] = deque()  # each belongs to the next OPEN_GATE in the stream
        self._vocabulary = Vocabulary(path)
        self._templates = Templates(self._vocabulary)
        self._lexicon: Lexicon | None = None
        self._jobs = Jobs(self._answer)

    def serve(self) -> None:
        """Say what the model is, then have questions answered until the core's end closes."""
        vocabulary = self._vocabulary
        self._link.sendall(frame((READY, self._find_facts())))
        self._lexicon = Lexicon(vocabulary.pieces, vocabulary.ends, vocabulary.end)
        gates = Gates(self._lexicon, vocabulary.token_of)
        self._jobs.renew()
        gc.collect()
        gc.freeze()  # a child that looked for garbage in all this would have a copy of it
        try:
            while self._serve_once(gates):
                pass
        finally:
            self._jobs.close()

    def _serve_once(self, gates: Gates) -> bool:
        """Do what there is to do; return whether the core is still there."""
        fds = [self._link.fileno(), *self._jobs.fds(), *gates.fds()]
        ready, _, _ = select.select(fds, [], [], self._jobs.timeout_s())
        if self._link.fileno() in ready and not self._read(gates):
            return False
        for answer in self._jobs.serve(ready):
            self._link.sendall(frame((ANSWER, *answer)))
        for ended in gates.serve(ready):
            self._link.sendall(frame((GATE_ENDED, *ended)))
        return True

    def _find_facts(self) -> dict[str, Any]:
        """Return the fields of client.TextFacts. What the template does is tried in a child."""
        self._jobs.add(FACTS, "facts", {})
        ended = None
        while ended is None:
            ready, _, _ = select.select(self._jobs.fds(), [], [], self._jobs.timeout_s())
            ended = next(self._jobs.serve(ready), None)
        found, _ = ended[1:]
        if found is not None:
            self._templates.adopt(found["compiled"])
        return {
            "chat_format": self._templates.chat_format,
            "takes_tools": found is not None and found["takes_tools"],
            "has_template": self._templates.has_template,
            "vocab": self._vocabulary.size,
        }

    def _read(self, gates: Gates) -> bool:
        data, received, _, _ = socket.recv_fds(self._link, READ_BYTES, MAX_DESCRIPTORS)
        if not data:
            return False
        self._descriptors.extend(received)
        self._unframer.feed(data)
        for kind, *fields in self._unframer.messages():
            if kind == ASK:
                self._jobs.add(*fields)
            elif kind == OPEN_GATE:
                gates.open(self._descriptors.popleft(), *fields)
            elif kind == CLOSE_GATE:
                gates.close(*fields)
            else:
                raise ValueError(f"message of kind {kind!r} from the core")
        return True

    def _answer(self, what: str, value: dict[str, Any]) -> Any:
        """Answer a question, in a child; see effects.AskCore. Raises EngineError."""
        vocabulary = self._vocabulary
        if what == "tokenize":
            return vocabulary.tokenize(value["text"], value["with_special"], value.get("goes_on", False))
        if what == "detokenize":
            return vocabulary.detokenize(value["tokens"])
        if what == "pieces":
            return vocabulary.pieces_of(value["tokens"])
        if what == "chat":
            text, opens = self._templates.render(
                value["messages"], value["tools"], value["thinking"]
            )
            return {"tokens": vocabulary.tokenize_chat(text, value.get("known", ())), "opens_reasoning": opens}
        if what == "constraint" and self._lexicon is not None:
            constraint = Constraint(value["kind"], value["text"])
            return tokens_needed(
                constraint, value["max_tokens"], self._lexicon, vocabulary.token_of
            )
        if what == "facts":
            compiled = self._templates.compile()
            return {"takes_tools": self._templates.takes_tools(), "compiled": compiled}
        raise EngineError(f"question {what!r} is not one of tokenize, detokenize, pieces, chat, constraint")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m kernel.engine.textside.server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--fd", type=int, required=True)
    options = parser.parse_args(arguments)
    become_private(b"agentix-text")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the kernel
    link = socket.socket(fileno=options.fd)
    link.set_inheritable(False)
    try:
        Server(link, options.model).serve()
    except EngineError as error:
        link.sendall(frame((FATAL, str(error))))
    except ConnectionError:  # the core went away
        return 0
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)
