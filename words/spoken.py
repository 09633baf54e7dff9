"""The text of a prompt that a tokenizer was given to read, and the tokens that spell it: the round trip."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from comfy.sd1_clip import escape_important, token_weights, unescape_important

from .pieces import UNKNOWN, Character
from .split import BREAK

_EMBEDDING = re.compile(r"(?:^|(?<=\s))embedding:[^\s<\[]*[^\s<\[,]")
_WEIGHT = re.compile(r"\([^()]*:\s*-?[\d.]+\s*\)")
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")  # transformers 4 straightens them where ftfy is installed


class Spoken(NamedTuple):
    """A text and, for each of its characters, the tokens that spell it: None where none of the vocabulary does.

    stop: where the tokens end before the text does. spaces: whether they keep its words apart.
    """

    text: str
    tokens: list[tuple[int, ...] | None]
    stop: int
    spaces: bool


class _Letters(NamedTuple):
    """What is compared of a text: its letters without spaces, case and Unicode's variants of one letter."""

    text: str
    origin: list[int]  # the character that each letter is of
    breaks: set[int]  # letters that have a space before them


def _letters(texts: Iterable[str]) -> _Letters:
    letters: list[str] = []
    origin: list[int] = []
    breaks: set[int] = set()
    gap = False
    for place, character in enumerate(texts):
        gap |= character.isspace()
        for letter in unicodedata.normalize("NFKD", character.translate(_QUOTES)).casefold():
            if letter.isspace() or unicodedata.category(letter) in ("Cc", "Cf"):
                continue
            if gap:
                breaks.add(len(letters))
            gap = False
            letters.append(letter)
            origin.append(place)
    return _Letters("".join(letters), origin, breaks)


def possible_texts(prompt: str) -> list[tuple[str, str]]:
    """What a tokenizer may have read of a prompt, and the first weight that was left in it, such as "(red:1.2)".

    As comfy.sd1_clip.SDTokenizer: with weights and embeddings taken out, else with either, else all as it stands.
    """
    escaped = escape_important(prompt)
    parts = [unescape_important(part) for part, _weight in token_weights(escaped, 1.0)]
    plain = unescape_important(escaped)
    weight = _WEIGHT.search(plain)
    left = weight[0] if weight else ""
    texts = {
        BREAK.join(_EMBEDDING.sub("", part) for part in parts): "",
        BREAK.join(parts): "",
        _EMBEDDING.sub("", plain): left,
        plain: left,
        prompt: left,
    }
    return [(unicodedata.normalize("NFC", text), weight) for text, weight in texts.items()]


def speak(text: str, spelled: Sequence[Character]) -> Spoken | None:
    """Lay the characters that tokens spell along a text; None where they spell something else.

    They may end before the text does. UNKNOWN stands for one or more characters that are not in the vocabulary.
    """
    wanted, given = _letters(text), _letters(character.text for character in spelled)
    tokens: list[tuple[int, ...] | None] = [()] * len(text)
    spaces = True
    at = start = 0  # in wanted, in given
    runs = given.text.split(UNKNOWN)
    for number, run in enumerate(runs):
        found = wanted.text.find(run, at + 1) if number else 0
        if number and not run and number == len(runs) - 1:
            found = len(wanted.text)
        if found < 0 or not wanted.text.startswith(run, found):
            return None
        for letter in range(at, found):
            tokens[wanted.origin[letter]] = None
        for step in range(len(run)):
            place, character = wanted.origin[found + step], spelled[given.origin[start + step]]
            tokens[place] = (*(tokens[place] or ()), *character.tokens)
            spaces &= step == 0 or found + step not in wanted.breaks or start + step in given.breaks
        at, start = found + len(run), start + len(run) + 1
    if wanted.text and not at:
        return None
    stop = wanted.origin[at] if at < len(wanted.text) else len(text)
    return Spoken(text, tokens, stop, spaces)
