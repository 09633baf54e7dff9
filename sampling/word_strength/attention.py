"""The weights that words have in attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...attention_hooks.edits import Change, Edit, Group, Part, Site, Weight
from ...attention_hooks.families import Family
from ...words.phrases import find_every, phrase_columns
from ..prompt_text import prompt_text

Columns = tuple[tuple[int, ...], ...]  # of each phrase; () where the prompt lacks it


class StrengthEdit(Edit):
    """What one forward changes, by the uuid of the cond; what became of it is noted for the run."""

    def __init__(self, node: str, changes: dict[Any, Change], noted: Edit | None = None):
        super().__init__(node)
        self.changes = changes
        if noted is not None:
            self.acted, self.averages = noted.acted, noted.averages

    def change(self, site: Site) -> Change | None:
        return self.changes.get(site.uuid)


def phrase_places(cond: dict[str, Any], family: Family, phrases: Sequence[str]) -> tuple[int, Columns]:
    """How many tokens a processed cond's text has, and the columns of every place of each phrase in it.

    Of all encoders whose columns the model attends to: SD 3 has a word in those of CLIP and in those of T5.
    """
    text = prompt_text(cond, family)
    if text is None:
        return 0, ((),) * len(phrases)
    several = [text.words] if text.words is None or not text.words.parts else [
        text.words._replace(words=part.words) for part in text.words.parts
    ]
    columns = []
    for phrase in phrases:
        found = {
            column + text.moved for words in several
            for column in phrase_columns(words, text.length - text.moved, phrase, find_every)
        }
        columns.append(tuple(sorted(column for column in found if column < text.length)))
    return text.length, tuple(columns)


def heavier(columns: Sequence[int], length: int, strength: float, mask: Tensor | None) -> Change:
    """Words that count `strength` times, above 1, inside the mask [B or 1, (T,) h, w]."""
    return Change(length, (Group(tuple(columns), strength if mask is None else 1 + (strength - 1) * mask),))


def lighter(columns: Sequence[int], length: int, tokens: int, strength: float, mask: Tensor | None) -> Change:
    """Inside the mask the text of `tokens` columns is seen, in which the words are weak, and elsewhere that behind it.

    Below 0 the words of the text behind are seen inside, too, with their values turned round. length: of the cond's own
    text, of which the `tokens` are repeats.
    """
    own = {copy for column in columns for copy in range(column, tokens, length)}
    below = min(strength, 0.0)
    front: Weight = 1.0 if mask is None else mask
    rest: Weight = 0.0 if mask is None else 1 - mask
    words: Weight = below if mask is None else 1 - mask + below * mask
    others = tuple(tokens + column for column in range(tokens) if column not in own)
    return Change(2 * tokens, (
        Group(tuple(range(tokens)), front),
        Group(others, rest),
        Group(tuple(tokens + column for column in sorted(own)), words),
    ))


def unseen(tokens: int) -> Change:
    """What is behind a text of so many tokens is for other prompts."""
    return Change(2 * tokens, (Group(tuple(range(tokens, 2 * tokens)), 0.0),))


def turned(columns: Sequence[int], length: int, strength: float) -> Change:
    """The words' own columns with their value turned round, seen by the picture alone and by no other text."""
    others = tuple(column for column in range(length) if column not in columns)
    every = torch.ones(1, 1, 1)
    return Change(
        length, (Group(tuple(columns), strength),),
        (Part(tuple(range(length)), every), Part(others, rows=tuple(range(length)))),
    )
