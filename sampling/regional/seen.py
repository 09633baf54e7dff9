"""What became of the regions of a run: what hinders them, what the record holds, and one line for the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...attention_hooks.layouts import Layer
from ...guidance.regions import prompt_shares
from ..record import fingerprint
from ..region_record import Region as ShownRegion
from ..region_record import Regions, RegionStep, first_of_steps
from ..run import Evaluation
from .region import NODE, Region

BASE = "base prompt"
FEWEST_CELLS = 4  # of the coarsest grid, for a region


def faults(regions: Sequence[Region], places: Tensor, layers: Sequence[Layer], size: Sequence[int]) -> Iterator[str]:
    """Why regions at these places [R, N, *size] can hardly act. Those of words may find a place later."""
    frames, height, width = min((layer.grid(tuple(size)) for layer in layers), key=lambda grid: grid[1] * grid[2])
    cells = places.flatten(1).mean(dim=1) * height * width
    for number, (region, count) in enumerate(zip(regions, cells.tolist(), strict=True), start=1):
        if region.words:
            continue
        if not count:
            yield (f"region {number} has no place: its mask is empty, or the regions before it, which go first, cover "
                   "all of it. Move it forward in the chain, or make it larger.")
        elif count < FEWEST_CELLS:
            yield (f"region {number} covers {count:.1f} cells of the {height} x {width} of this model's coarsest "
                   "attention, so that it can hardly act. Make it larger.")
    if not prompt_shares(places, [region.strength for region in regions])[0].any():
        yield ("the regions cover the whole picture with strength 1, so that nothing reads the base prompt. Leave room "
               "for it, or lower a strength.")


class Seen:
    """Where each prompt acted, evaluation by evaluation."""

    def __init__(self, regions: Sequence[Region]):
        self._strengths = [region.strength for region in regions]
        self._names = [region.name or f"region {number}" for number, region in enumerate(regions, start=1)]
        self._steps: dict[float, RegionStep] = {}  # by sigma
        self._shares: Tensor | None = None  # of each prompt in the picture, at last

    def note(self, places: Tensor, batch: int, evaluation: Evaluation) -> None:
        """The region with the largest part of each place, and the share that its prompt has there."""
        owner = prompt_shares(places, [1.0] * len(self._strengths)).argmax(dim=0, keepdim=True)
        shares = prompt_shares(places, self._strengths)
        share = shares.gather(0, owner).expand(-1, batch, *owner.shape[2:])[0]
        rates = torch.tensor([[1.0, *self._strengths]]).expand(batch, -1)
        step, sigma = evaluation.step, evaluation.sigma_value
        self._steps[sigma] = RegionStep(step, sigma, owner[0].to(torch.int16).expand_as(share), rates, share.half())
        self._shares = shares.flatten(1).mean(dim=1)

    def regions_of(self, samples: Tensor, downscale: int) -> Regions | None:
        """For the record of the run that returned this latent; None where no step was noted."""
        if not self._steps:
            return None
        names = tuple(ShownRegion(number, 0, name) for number, name in enumerate([BASE, *self._names]))
        return Regions(names, tuple(first_of_steps(self._steps.values())), downscale, fingerprint(samples), NODE)

    def summary(self) -> str:
        shares = [] if self._shares is None else self._shares.tolist()
        parts = zip([BASE, *self._names], shares, strict=False)
        return f"{', '.join(f'{name} {100 * share:.0f} %' for name, share in parts)} of the picture"
