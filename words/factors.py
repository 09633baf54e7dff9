"""Words with a factor each, as a user types them: "hands: 1.5, sky: 0.7"."""

from __future__ import annotations

from typing import NamedTuple

from .phrases import split_phrases

MOST = 10.0


class WordFactor(NamedTuple):
    phrase: str
    factor: float | None  # None where the user gave none


def word_factors(text: str) -> tuple[WordFactor, ...]:
    """The phrases of a text, separated by commas or line breaks, each with the number after its colon, if any.

    Raises ValueError, with the way out, for what is no number from 0 to MOST.
    """
    return tuple(map(_word_factor, split_phrases(text)))


def _word_factor(part: str) -> WordFactor:
    phrase, colon, number = map(str.strip, part.rpartition(":"))
    if not colon:
        return WordFactor(part, None)
    try:
        factor = float(number)
    except ValueError:
        factor = -1.0
    if not phrase or not 0 <= factor <= MOST:
        raise ValueError(
            f'"{part}" is not a word with a factor. Write the word, a colon and a number from 0 to {MOST:g}: '
            "hands: 1.5, sky: 0.7."
        )
    return WordFactor(phrase, factor)
