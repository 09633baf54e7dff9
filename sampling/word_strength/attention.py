"""The weights that words have in attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...attention_hooks.edits import Change, Edit, Group, Part, Site, Weight

Columns = tuple[tuple[int, ...], ...]  # of each phrase; () where the prompt lacks it
WHOLE = torch.ones(1, 1, 1)  # of the picture


class StrengthEdit(Edit):
    """What one forward changes, by the uuid of the cond. What it notes it shares with those of the run's others."""

    def __init__(self, whole: Edit, changes: dict[Any, Change]):
        super().__init__(whole.node)
        self.acted, self.averages, self.kept = whole.acted, whole.averages, whole.kept
        self.prompts = (0,)
        self.changes = changes

    def change(self, site: Site) -> Change | None:
        return self.changes.get(site.uuid)


def heavier(columns: Sequence[int], length: int, strength: float, mask: Tensor | None) -> Change:
    """Words that count `strength` times, above 1, inside the mask [B or 1, (T,) h, w]."""
    return Change(length, (Group(tuple(columns), strength if mask is None else 1 + (strength - 1) * mask),))


class Shares(NamedTuple):
    """Of the picture, on the CPU: inside and outside of a mask, [B or 1, (T,) h, w]; all of it without one."""

    inside: Tensor
    outside: Tensor | None = None
    mask: Tensor | None = None  # the same as inside, on the model's device


def lighter(columns: Sequence[int], length: int, joined: int, strength: float, shares: Shares) -> Change:
    """Inside the cond's own text is seen, in which the words are weak, and outside the `joined` columns behind it.

    Below 0 the words of these are seen inside, too, with their values turned round. length: of the cond's own text,
    before the host repeats it.
    """
    behind = tuple(range(length, length + joined))
    words = tuple(length + copy for column in columns for copy in range(column, joined, length)) if strength < 0 else ()
    parts = [Part((*range(length), *words), shares.inside)]
    weight: Weight = strength
    if shares.outside is not None and shares.mask is not None:
        parts.append(Part(behind, shares.outside))
        weight = 1 + (strength - 1) * shares.mask
    return Change(length, (Group(words, weight),) if words else (), tuple(parts))


def turned(columns: Sequence[int], length: int, strength: float) -> Change:
    """The words' own columns with their value turned round, seen by the picture alone and by no other text."""
    others = tuple(column for column in range(length) if column not in columns)
    return Change(
        length, (Group(tuple(columns), strength),),
        (Part(tuple(range(length)), WHOLE), Part(others, rows=tuple(range(length)))),
    )
