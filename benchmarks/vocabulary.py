"""Tokenizers for the made models: words with byte fall-back, byte pairs, and word pieces for embeddings.

Who calls it: model_write.py. What must hold: every byte string can be tokenized and comes back unchanged,
and pieces that end inside a UTF-8 character are common, so that streaming is put to work. Word pieces,
which are only ever read, know ASCII alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # llama.cpp's token types

# ChatML; tools and calls as Hermes writes them.
CHAT_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\nCall these functions as <tool_call>\n' }}"
    """{{ '{"name": ..., "arguments": {...}}\n</tool_call>:\n' }}"""
    "{% for tool in tools %}{{ (tool['function'] | tojson) + '\n' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + (message['content'] or '')}}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '<tool_call>\n' + (call['function'] | tojson) + '\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

WORDS = """
the of and to in is that for it as was with on be by at this have from or had not are but what all
were when we there can an your which their said if do will each about how up out them then she many
some so these would other into has more her two like him see time could no make than first been its
who now people my made over did down only way find use may water long little very after words called
just where most know get through back much go good new write our me man too any day same right look
think also around another came come work three word must because does part even place well such here
take why things help put years different away again off went old number great tell men say small every
found still between name should home big give air line set own under read last never us left end along
while might next sound below saw something thought both few those always show large often together
asked house world going want school important until form food keep children feet land side without boy
once animals life enough took four head above kind began almost live page got earth need far hand high
year mother light country father let night picture being study second soon story since white ever paper
hard near sentence better best across during today however sure knew tried told young sun thing whole
hear example heard several change answer room sea against top turned learn point city play toward five
himself usually money seen morning body agent kernel task model token memory file tool plan step check
note list count begin done fast slow open close send wait run stop start share queue slice batch cache
""".split()  # noqa: SIM905 (a list literal would be two thousand quotes)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    kind: str  # llama.cpp's tokenizer model: "llama" (unigram with byte fall-back), "gpt2" (byte pairs), "bert"
    tokens: list[str]
    types: list[int]
    bos: int
    eos: int
    end_of_turn: int
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)


def make_vocabulary(kind: str, size: int) -> Vocabulary:
    """Return a vocabulary of `size` tokens; kind "words", "pairs", "whole" or "wordpieces"."""
    makers = {
        "words": word_vocabulary,
        "pairs": byte_pair_vocabulary,
        "whole": whole_pair_vocabulary,
        "wordpieces": word_pieces,
    }
    return makers[kind](size)


def word_vocabulary(size: int) -> Vocabulary:
    """Return `size` tokens: control, 256 bytes, ASCII, word starts with all their prefixes, filler.

    Raises ValueError when the words do not fit.
    """
    tokens = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    types = [UNKNOWN, CONTROL, CONTROL, CONTROL, CONTROL]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [BYTE] * 256
    pieces = dict.fromkeys(["\u2581", *map(chr, range(33, 127))])
    for word in WORDS:
        for end in range(1, len(word) + 1):  # every prefix, so that merging can reach the word
            pieces["\u2581" + word[:end]] = None
    pieces.update(dict.fromkeys(f"{left}{right}" for left in "aeiou" for right in "nrstlmdc"))
    room = size - len(tokens)
    if len(pieces) > room:
        raise ValueError(f"{len(pieces)} word pieces do not fit in a vocabulary of {size}")
    filler = [f"<filler-{index}>" for index in range(room - len(pieces))]
    tokens += [*pieces, *filler]
    types += [NORMAL] * len(pieces) + [CONTROL] * len(filler)
    scores = [0.0] * (size - room) + [float(len(piece)) for piece in pieces] + [0.0] * len(filler)
    return Vocabulary("llama", tokens, types, bos=1, eos=2, end_of_turn=4, scores=scores)


def whole_pair_vocabulary(size: int) -> Vocabulary:
    """Byte pairs of whole characters, as nearly all tokens of a real model are: no server has to hold text back."""
    return byte_pair_vocabulary(size, has_halves=False)


def byte_pair_vocabulary(size: int, has_halves: bool = True) -> Vocabulary:
    """Return `size` byte-level tokens; has_halves: a third of the pieces end inside a UTF-8 character."""
    shown = _byte_alphabet()
    tokens = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    types = [CONTROL] * len(tokens)
    single = [shown[byte] for byte in range(256)]
    tokens += single
    types += [NORMAL] * 256
    merges: list[str] = []
    seen = set(single)
    syllables = [" " + word for word in WORDS] + [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    characters = [chr(0x4E00 + 7 * index) for index in range(600)]
    index = 0
    while len(tokens) < size:
        stem = syllables[index % len(syllables)] * (1 + index // len(syllables) % 2)
        character = characters[index * 31 % len(characters)].encode()
        tail = (b"", character, character[:2])[index % 3] + str(index // 3 % 997).encode() * (index > 1800)
        if index % 3 == 2:
            tail = str(index).encode() + character[: 2 if has_halves else 3]  # two of its three bytes
        piece = "".join(shown[byte] for byte in stem.encode() + tail)
        index += 1
        if piece in seen:
            continue
        seen.add(piece)
        tokens.append(piece)
        types.append(NORMAL)
    for word in WORDS:  # real merges for common words only: the rest is reachable by generation alone
        text = [shown[byte] for byte in (" " + word).encode()]
        for end in range(1, len(text)):
            left, right = "".join(text[:end]), text[end]
            if left in seen and left + right in seen:
                merges.append(f"{left} {right}")
    return Vocabulary("gpt2", tokens, types, bos=1, eos=2, end_of_turn=4, merges=merges or ["a b"])


def word_pieces(size: int) -> Vocabulary:
    """Return `size` tokens as BERT has them: whole words, and characters that begin or go on with one."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    types = [CONTROL, UNKNOWN, CONTROL, CONTROL, CONTROL]
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = dict.fromkeys(["\u2581" + character for character in characters] + characters)
    pieces.update(dict.fromkeys("\u2581" + word for word in WORDS))
    filler = [f"[unused{index}]" for index in range(size - len(tokens) - len(pieces))]
    tokens += [*pieces, *filler]
    types += [NORMAL] * len(pieces) + [CONTROL] * len(filler)
    return Vocabulary("bert", tokens, types, bos=2, eos=3, end_of_turn=3)


def _byte_alphabet() -> dict[int, str]:
    """Map each byte to the printable character that stands for it in byte-level BPE (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    alphabet = {byte: chr(byte) for byte in printable}
    alphabet.update({byte: chr(256 + offset) for offset, byte in enumerate(hidden)})
    return alphabet
