"""What the tokens of a vocabulary spell, character by character.

Vocabularies of text encoders write their pieces in three ways:
  CLIP                        bytes as letters (below), "</w>" at the end of a word
  T5, umT5, pile-T5, Gemma    plain text, "\u2581" for a space, "<0xE7>" for a byte that no piece has
  Qwen, Mistral, GPT-OSS      bytes as letters: "\u0120" is a space; Llama 3 and GPT-2 as well
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

UNKNOWN = "\ufffd"
SPACE = "\u2581"
Spelling = Literal["clip", "sentencepiece", "bytes"]


class Character(NamedTuple):
    """A character and the place of each token that spells a byte of it; UNKNOWN stands for any text without a piece."""

    text: str
    tokens: tuple[int, ...]


def _letters_of_bytes() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable Latin-1 stands for itself, the rest follows from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTES = _letters_of_bytes()


def spelling(vocabulary: Mapping[int, str]) -> Spelling:
    """How a vocabulary {token: piece} writes its pieces."""
    pieces = vocabulary.values()
    if any(piece.startswith(SPACE) for piece in pieces):
        return "sentencepiece"
    return "clip" if any(piece.endswith("</w>") for piece in pieces) else "bytes"


def _piece_bytes(piece: str, kind: Spelling) -> bytes:
    if kind == "sentencepiece":
        if piece == "<unk>":
            return UNKNOWN.encode()
        byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
        return bytes.fromhex(byte[1]) if byte else piece.replace(SPACE, " ").encode()
    if kind == "clip" and piece.endswith("</w>"):
        return _piece_bytes(piece[: -len("</w>")], "bytes") + b" "
    if all(letter in BYTES for letter in piece):
        return bytes(BYTES[letter] for letter in piece)
    return piece.encode()


def characters(
    tokens: Iterable[tuple[int, int | None]], vocabulary: Mapping[int, str], kind: Spelling
) -> list[Character]:
    """The text of tokens, given as (place, token); a token of None is a gap, such as an embedding.

    A character of several bytes may be spelled by several tokens, and a token may spell several characters.
    """
    spelled, places = bytearray(), []
    for place, token in tokens:
        piece = b" " if token is None else _piece_bytes(vocabulary.get(token, UNKNOWN), kind)
        spelled += piece
        places += [place] * len(piece)
    found = []
    at = 0
    while at < len(spelled):
        size = _utf8_size(spelled[at])
        try:
            text = spelled[at : at + size].decode()
        except UnicodeDecodeError:  # half a character
            text, size = UNKNOWN, 1
        found.append(Character(text, tuple(places[at : at + size])))
        at += size
    return found


def _utf8_size(lead: int) -> int:
    return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
