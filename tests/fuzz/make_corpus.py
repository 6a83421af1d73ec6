"""Writes the kept inputs of every fuzz target: `python -m tests.fuzz.make_corpus`.

Who runs it: whoever changed the protocol or pieces.py; a test compares. What must hold: it touches no input
that was kept because it broke something (broke-*).
"""

from __future__ import annotations

import struct
from pathlib import Path

from kernel.abi.codec import MAGIC, MAX_FRAME_BYTES, SMALL_BYTES
from tests.fuzz import pieces
from tests.fuzz.pieces import GREETING, READY, SYS_HELLO, command, frame, greeting, ready

FOLDER = Path(__file__).parent / "corpus"
FROZEN = Path(__file__).parents[1] / "abi" / "v2"
BROKE = "broke-"  # what the name of an input starts with that once broke a target
WHOLE, BYTEWISE, CUT = b"\0", b"\1", b"\x1d"  # how a stream is cut

START = GREETING + READY
HEAVY = b"\x93\x05\xa1x\xdc\x1f\xf0" + b"\x80" * 0x1FF0


def frozen(kind: str) -> dict[str, bytes]:
    """Messages of the protocol as they are frozen, without their MAGIC."""
    files = sorted(FROZEN.glob(f"{kind}.hex"))
    return {path.stem: bytes.fromhex(path.read_text())[len(MAGIC) :] for path in files}


def calls() -> dict[str, bytes]:
    head = b"\x93\x07\xa1x"
    return frozen("*.call") | {
        "empty": b"",
        "no-array": b"\x80",
        "no-values": b"\x90",
        "five-values": b"\x95\x07\xa1x\x80\x80\x80",
        "no-such-method": head + b"\x80",
        "id-0": b"\x93\0\xa1x\x80",
        "id-beyond": b"\x93\xcf" + b"\xff" * 8 + b"\xa1x\x80",
        "id-beyond-in-a-long-one": b"\x93\xcf" + b"\xff" * 8 + b"\xa1x\xdc\xff\xff" + bytes(SMALL_BYTES),
        "options-unknown": b"\x94\x07\xa1x\x80\x81\xa1a\x01",
        "options-beyond": b"\x94\x07\xa1x\x80\x81\xa4task\xcf" + b"\xff" * 8,
        "key-no-string": head + b"\x81\x01\x02",
        "key-bytes": b"\x93\x07\xa8sys.info\x81\xc4\x01x\x01",
        "text-no-utf8": b"\x93\x07\xa9log.write\x81\xa4text\xa1\xff",
        "extension": head + b"\xd6\xff\0\0\0\0",
        "reserved": head + b"\xc1",
        "float-nan": b"\x93\x07\xacllm.generate\x81\xabtemperature\xcb\x7f\xf8" + bytes(6),
        "deep-and-short": head + b"\x91" * 400,
        "deep-and-long": head + b"\x91" * 600,
        "lies-short": head + b"\xdc\x01\xe0" * 150,
        "lies-long": head + b"\xdd\0\0\x1f\0" * 300,
        "empty-maps": head + b"\xdd\0\0\x20\0" + b"\x80" * 8192,
        "at-the-limit": b"\x93\x07\xa8ipc.recv\x81\xa1x\xdc\x1f\xf7" + b"\xc0" * 0x1FF7,
    }


def answers() -> dict[str, bytes]:
    kept = ("error.EIO", "error.EBADMSG", "error.ETIMEDOUT")
    errors = {name: raw for name, raw in frozen("error.*").items() if name in kept}
    return (
        frozen("*.reply")
        | frozen("chunk")
        | errors
        | {
            "empty": b"",
            "a-text": b"\xa3abc",
            "two-values": b"\x92\x01\xa5reply",
            "kind-unknown": b"\x93\x01\xa5other\x80",
            "kind-list": b"\x93\x01\x91\xa5reply\x80",
            "reply-numbered": b"\x94\x01\xa5reply\x80\x03",
            "chunk-unnumbered": b"\x93\x01\xa5chunk\x80",
            "chunk-number-a-text": b"\x94\x01\xa5chunk\x80\xa13",
            "deep": b"\x93\x01" + b"\x91" * 900 + b"\xc0\x80",
            "lies": b"\x93\x01\xa5reply" + b"\xdc\x7f\xff" * 300,
        }
    )


def streams() -> dict[str, bytes]:
    """Streams for the decoder alone, each after the byte that says how it is cut."""
    message = frame(0, MAGIC + b"\x93\x01\xa8sys.info\x80")
    found = {
        "honest": WHOLE + START + message * 3,
        "honest-bytewise": BYTEWISE + START + message * 3,
        "honest-cut": CUT + START + message * 10,
        "long": CUT + START + frame(2, bytes(3000)) + message,
        "empty-messages": WHOLE + START + frame(0, b"") * 40,
        "only-a-greeting": WHOLE + GREETING,
        "no-ready": WHOLE + GREETING + message,
        "half-a-message": WHOLE + START + message[:-1],
        "at-the-limit": CUT + START + frame(2, b"", MAX_FRAME_BYTES) + bytes(8000),
        "nothing": b"",
    }
    for number, one in enumerate(pieces.GREETINGS):
        found[f"greeting-{number}"] = (WHOLE, BYTEWISE, CUT)[number % 3] + one
    for number, one in enumerate(pieces.READIES):
        found[f"ready-{number}"] = CUT + GREETING + one + message
    for number, one in enumerate(pieces.COMMANDS):
        found[f"command-{number}"] = CUT + START + one + message
    for number, one in enumerate(pieces.FRAME_LIES):
        found[f"length-{number}"] = WHOLE + START + one
    for flags in (1, 3, 5, 8, 0x80, 0xFF):
        found[f"flags-{flags}"] = WHOLE + START + message + frame(flags, b"x")
    return found


def conversations() -> dict[str, bytes]:
    """Whole conversations with the server: a handshake, a hello and calls."""
    found = {
        f"call-{name}": WHOLE + START + SYS_HELLO + frame(0, MAGIC + raw)
        for name, raw in frozen("*.call").items()
        if not name.startswith("sys.shutdown")
    }
    for number, one in enumerate(pieces.SIDE_CHANNELS):
        found[f"side-channel-{number}"] = CUT + one
    for number, one in enumerate(pieces.REFERENCES[:4]):
        found[f"reference-{number}"] = WHOLE + START + SYS_HELLO + one
    noise = frame(0, b"noise")
    return found | {
        "no-hello": WHOLE + START + frame(0, MAGIC + b"\x93\x01\xa8sys.info\x80"),
        "pipelined": CUT + START + SYS_HELLO + frame(0, MAGIC + b"\x93\x05\xa8sys.info\x80") * 40,
        "bad-burst": WHOLE + START + SYS_HELLO + noise * 300,
        "operator": b"\x80" + START + frame(0, MAGIC + b"\x93\x01\xa7proc.ps\x80"),
        "plain": WHOLE + greeting(mechanism=b"PLAIN"),
        "req": WHOLE + GREETING + ready((b"Socket-Type", b"REQ")),
        "ping": WHOLE + START + command(b"PING", b"\0\x0actx") * 3 + SYS_HELLO,
        "heavy": WHOLE + START + SYS_HELLO + frame(2, MAGIC + HEAVY),
        "half-a-length": WHOLE + START + SYS_HELLO + b"\2" + struct.pack(">I", 0),
        "nothing": b"",
    }


CORPUS = {"zmtp": streams, "call": calls, "answer": answers, "conversation": conversations}


def kept(target: str) -> dict[str, bytes]:
    """Every kept input of a target by its name, in the order of their names."""
    return {path.name: path.read_bytes() for path in sorted((FOLDER / target).iterdir())}


def main() -> None:
    for target, make in CORPUS.items():
        folder = FOLDER / target
        folder.mkdir(parents=True, exist_ok=True)
        wanted = make()
        for path in folder.iterdir():
            if path.name not in wanted and not path.name.startswith(BROKE):
                path.unlink()
        for name, raw in wanted.items():
            (folder / name).write_bytes(raw)
        print(f"{folder}: {len(wanted)} inputs, {sum(map(len, wanted.values()))} bytes")


if __name__ == "__main__":
    main()
