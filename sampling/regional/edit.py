"""What a layer's attention to the text becomes where the prompts of regions are joined to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ...attention_hooks.edits import Change, Edit, Group, Part, Site
from ...guidance.regions import isolated
from .region import Region
from .texts import Texts


class Shares(NamedTuple):
    """Of one cond, on what one model call is shown of the latent, on the CPU."""

    length: int  # of the cond's own text
    prompts: Tensor  # [1 + R, 1 or B, *size], the base prompt's first; they sum to 1
    places: Tensor  # [R, 1 or B, *size]


class RegionalEdit(Edit):
    """One forward's. What it notes of the layers it shares with those of the run's other forwards."""

    def __init__(
        self, whole: Edit, regions: Sequence[Region], texts: Texts, shares: Mapping[Any, Shares], joint: bool,
        isolate: float,
    ):
        super().__init__(whole.node)
        self.acted = whole.acted
        self.averages = whole.averages
        self.kept = whole.kept
        self.prompts = texts.starts
        self._regions = regions
        self._texts = texts
        self._joint = joint
        self._isolate = isolate
        self._shares = shares

    def change(self, site: Site) -> Change | None:
        shares = self._shares.get(site.uuid)
        if shares is None:
            return None
        apart = self._joint and isolated(site.layers, self._isolate)[site.number]
        key = id(shares), apart
        if key not in self.kept:
            self.kept[key] = shares, self._change(shares, apart)  # with the shares, so that their id stays theirs
        return self.kept[key][1]

    def _change(self, shares: Shares, apart: bool) -> Change:
        """The picture sees each prompt in its share. In joint attention, a region's text sees itself and its place.

        apart: the places of regions do not see each other.
        """
        base = tuple(range(shares.length))
        parts = [Part(base, shares.prompts[0], base if self._joint else ())]
        groups = []
        background = shares.places.sum(dim=0) < 1
        for region, columns, share, place in zip(
            self._regions, self._texts.columns, shares.prompts[1:], shares.places, strict=True
        ):
            prompt = tuple(shares.length + column for column in columns.prompt)
            negative = tuple(shares.length + column for column in columns.negative)
            here = place > 0
            parts.append(Part((*prompt, *negative), share, seen=here | background if apart else None))
            if self._joint:
                parts += [Part(text, rows=text, seen=here) for text in (prompt, negative) if text]
            if negative:
                groups.append(Group(negative, -region.negative_strength))
        return Change(shares.length, tuple(groups), tuple(parts))
