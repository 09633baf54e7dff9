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
        self, whole: Edit, regions: Sequence[Region], texts: Texts, isolate: float, shares: Mapping[Any, Shares]
    ):
        super().__init__(whole.node)
        self.acted = whole.acted
        self.averages = whole.averages
        self._regions = regions
        self._texts = texts
        self._isolate = isolate
        self._changes: dict[tuple[Any, bool], Change] = {}
        self._shares = shares

    def change(self, site: Site) -> Change | None:
        shares = self._shares.get(site.uuid)
        if shares is None:
            return None
        apart = self._isolate > 0 and isolated(site.count, self._isolate)[site.number]
        key = site.uuid, apart
        if key not in self._changes:
            self._changes[key] = self._change(shares, apart)
        return self._changes[key]

    def _change(self, shares: Shares, apart: bool) -> Change:
        """The picture sees each prompt in its share. A region's text sees itself and its part of the picture."""
        base = tuple(range(shares.length))
        parts = [Part(base, shares.prompts[0], rows=base)]
        groups = []
        background = shares.places.sum(dim=0) < 1
        for region, columns, share, place in zip(
            self._regions, self._texts.columns, shares.prompts[1:], shares.places, strict=True
        ):
            prompt, negative = (tuple(shares.length + column for column in kind) for kind in (
                columns.prompt, columns.negative
            ))
            here = place > 0
            parts.append(Part((*prompt, *negative), share, seen=here | background if apart else None))
            parts.append(Part(prompt, rows=prompt, seen=here))
            if negative:
                parts.append(Part(negative, rows=negative, seen=here))
                groups.append(Group(negative, -region.negative_strength))
        return Change(shares.length, tuple(groups), tuple(parts))
