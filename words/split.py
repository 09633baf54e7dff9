"""Where the words of a text are, in any language."""

from __future__ import annotations

import re
import unicodedata

# Thai, Lao, Myanmar, Khmer, Japanese and Chinese are written without spaces: each of their characters counts as a word.
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_CONTRACTION = re.compile("(?<=\\w)['\u2019](?:s|t|re|ve|m|ll|d)(?!\\w)", re.IGNORECASE)  # as CLIP splits "cat's"
_JOINER = "\u200d"
BREAK = "\u200b"  # no space, and yet the end of a word: "(red:1.2)balloon" is read in two

# Kinds of characters: w letter or digit, c one of a spaceless script, m what extends another character, j joiner,
# a apostrophe of a contraction, p any other sign.
_WORD = re.compile("a?w[wmj]*|[cp](?:m|j[cpw]?)*")


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if character == _JOINER:
        return "j"
    if category[0] in ("Z", "C") and category != "Cf" or character == BREAK:
        return " "
    if category[0] in "MC" or "\U0001f3fb" <= character <= "\U0001f3ff":  # marks, formats, skin tones
        return "m"
    if is_spaceless(character):
        return "c"
    return "w" if category[0] in "LN" else "p"


def is_spaceless(text: str) -> bool:
    """Whether a word is of a script without spaces between words."""
    return _SPACELESS.match(text) is not None


def word_spans(text: str) -> list[tuple[int, int]]:
    """(start, stop) of every word; punctuation marks and symbols are words of their own.

    "a T-shirt, don't" has the words: a, T, -, shirt, ",", don, 't.
    """
    kinds = [_kind(character) for character in text]
    for contraction in _CONTRACTION.finditer(text):
        kinds[contraction.start()] = "a"
    return [found.span() for found in _WORD.finditer("".join(kinds))]
