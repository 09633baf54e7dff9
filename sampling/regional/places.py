"""Where the regions of a run are, step by step: masks and boxes, words that the model sees, boxes that snap to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...attention_hooks.families import Family
from ...attention_hooks.layouts import Layer
from ...attention_hooks.observe import Call
from ...attention_hooks.token_maps import Capture
from ...guidance.regions import exclusive
from ..run import Evaluation
from ..word_regions import WordRegions
from .region import NODE, Region, cover
from .snap import LOOKED, Snap
from .texts import Texts

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider


class Places:
    """The place of each region on the whole latent, which changes between evaluations only.

    grow: whether boxes that snap may grow; None where they do not snap.
    """

    def __init__(self, guider: CFGGuider, regions: Sequence[Region], grow: bool | None, steps: int):
        self._regions = regions
        self._grow = grow
        self._looked = max(1, round(LOOKED * steps))
        self._phrases = list(dict.fromkeys(phrase for region in regions for phrase in region.words))
        self._words = WordRegions(NODE, guider, self._phrases, None) if self._phrases else None
        self._seen: Tensor | None = None  # [B, phrases, *size], of the last evaluation, on its way to the CPU
        self._snaps: dict[int, Snap] = {}  # by the number of the region, until it is cut
        self._drawn: list[Tensor] | None = None  # each [1 or B, *size], without words
        self._now: Tensor | None = None
        self.kept: list[int] = []  # regions, by number from 0, whose words stood out nowhere in their box

    def begin_run(
        self, guider: CFGGuider, family: Family, layers: list[Layer], downsample: int, texts: Texts, uuids: list[Any]
    ) -> None:
        """Called once the prompts are processed. ValueError where two named phrases share a word."""
        if self._words is not None:
            self._words.begin_run(guider)
        for number, (region, columns) in enumerate(zip(self._regions, texts.columns, strict=True)):
            if self._grow is not None and region.place is not None and columns.words:
                self._snaps[number] = Snap(Capture(NODE, family, layers, downsample, "none"), columns, uuids)

    def begin(self, evaluation: Evaluation, acts: bool) -> None:
        """Reading the evaluation's sigma has waited for all that those before it have shown."""
        self._evaluation = evaluation
        if self._snaps and self._drawn is not None and evaluation.step >= self._looked:
            for number, snap in self._snaps.items():
                self._drawn[number], found = snap.cut(self._drawn[number], bool(self._grow))
                self.kept += [] if found else [number]
            self._snaps, self._now = {}, None
        for watcher in self._watchers:
            watcher.begin(evaluation, acts)

    @property
    def _watchers(self) -> list[Any]:
        return [*([self._words] if self._words is not None else []), *self._snaps.values()]

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        for watcher in self._watchers:
            transformer_options = watcher.watch_forward(call, transformer_options)
        return transformer_options

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        for watcher in self._watchers:
            watcher.end_forward(call, transformer_options)

    def end(self, conds: list[dict[str, Any]]) -> None:
        """Take what this evaluation has shown of these conds, without waiting for it."""
        if self._words is not None:
            self._seen = self._words.at(conds, self._evaluation.x).to("cpu", non_blocking=True)
            self._now = None
        for snap in self._snaps.values():
            snap.end(conds, self._evaluation)

    def at(self, batch: int, size: Sequence[int]) -> Tensor:
        """M_r on a latent [batch, C, *size], [R, 1 or B, *size] on the CPU; those before in the list go first.

        A region of words has no place in the first evaluation that shows them.
        """
        if self._drawn is None:
            self._drawn = [cover(region.place, batch, size) for region in self._regions]
        if self._now is None:
            self._now = exclusive([
                drawn * self._of_words(region, drawn) for region, drawn in zip(self._regions, self._drawn, strict=True)
            ])
        return self._now

    def _of_words(self, region: Region, drawn: Tensor) -> Tensor:
        if not region.words:
            return torch.ones_like(drawn)
        if self._seen is None:
            return torch.zeros_like(drawn)
        numbers = [self._phrases.index(phrase) for phrase in region.words]
        return self._seen[:, numbers].sum(dim=1).clamp(0, 1).to(drawn)

    def unseen(self) -> list[str]:
        """The words that had no place in the whole run."""
        return [] if self._words is None else self._words.unseen()
