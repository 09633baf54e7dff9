"""A prompt without some of its words: each of their tokens gives way to a filler, a word that stands for nothing.

The prompt keeps its length, and so every other word its column.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .encoders import Encoder, Placed, UnknownWords, place_encoders, read_encoders
from .phrases import find_every, is_token_number
from .pieces import SPACE, Spelling
from .prompt import PromptWords, encoder_words

if TYPE_CHECKING:
    from comfy.sd import CLIP

_SPELLED: dict[Spelling, str] = {"clip": "{}</w>", "sentencepiece": SPACE + "{}", "bytes": "\u0120{}"}


class Filled(NamedTuple):
    """tokens: as clip.tokenize gives them. notes: sentences for the user, of what still reads the words."""

    tokens: dict[str, Any]
    notes: list[str]


def without_words(clip: CLIP, prompt: PromptWords, phrases: Sequence[str], beside: Collection[str]) -> Filled:
    """The tokens of a prompt without these phrases, wherever they stand, for all encoders that read it.

    beside: the keys of what the host handed on beside the columns. A token number is one of the columns' own encoders.
    Raises UnknownWords where the words of the columns' own encoder cannot be told.
    """
    tokens, notes = dict(clip.tokenize(prompt.text)), []
    placed, ids = place_encoders(clip, prompt.text, prompt.length, beside)
    seen = [ids] if ids else placed
    for name, encoder in read_encoders(clip, prompt.text).items():
        columns = [column for place in seen if (column := _columns(place, encoder)) is not None]
        try:
            entries = {entry for phrase in phrases for entry in _entries(encoder, columns, prompt.text, phrase)}
        except UnknownWords as reason:
            if columns:
                raise
            notes.append(f"{name} keeps these words, because {reason}.")
            continue
        numbers = [phrase for phrase in phrases if is_token_number(phrase)]
        if numbers and not columns:
            notes.append(f"{name} keeps {', '.join(numbers)}, because its tokens have other numbers. Name the word.")
        if entries:
            tokens[name] = _replaced(tokens[name], [encoder.origins[entry] for entry in entries], filler(encoder))
    return Filled(tokens, notes)


def _columns(place: Placed, encoder: Encoder) -> Placed | None:
    """Where the columns of an encoder are, if it is this one, or shares them: those of CLIP's kind do."""
    shared = place.encoder.kind == encoder.kind == "clip"
    return place if shared or place.encoder.name == encoder.name else None


def _entries(encoder: Encoder, columns: list[Placed], text: str, phrase: str) -> Iterable[int]:
    """The entries of an encoder that a phrase or token number is in."""
    if not is_token_number(phrase):
        return find_every(encoder_words(encoder, text), phrase)
    column = int(phrase[1:])
    return [column - place.columns.start + place.first for place in columns if column in place.columns]


def _replaced(chunks: list, origins: Iterable[tuple[int, int] | None], token: int) -> list:
    """Chunks of (token, weight) with `token` in these places, of no weight of its own."""
    new = [list(chunk) for chunk in chunks]
    for origin in origins:
        if origin is not None:
            chunk, place = origin
            new[chunk][place] = (token, 1.0, *new[chunk][place][2:])
    return new


def filler(encoder: Encoder) -> int:
    """The encoder's token of a word that stands for nothing. T5 has no "a" in one token."""
    tokens = {piece: token for token, piece in encoder.vocabulary.items()}
    spelled = _SPELLED[encoder.kind]
    for piece in (spelled.format("a"), spelled.format("the"), spelled.format(","), ","):
        if piece in tokens:
            return tokens[piece]
    raise UnknownWords(f"{encoder.name} has no token for a, the or a comma")
