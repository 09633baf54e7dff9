"""What Keep Apart saw and did in a run."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..attention_record import WordCurves, named
from ..region_record import Region, Regions, RegionStep
from .settings import NODE


class ApartStep(NamedTuple):
    """One sampler step in which attention was read."""

    step: int  # from 0
    sigma: float
    peaks: Tensor  # [B, words], the highest attention to each word, 0..1; NaN where no prompt with it acts
    maps: Tensor  # [B, words, h, w] fp16, the attention to each word, of a clip the highest of all frames
    owner: Tensor  # [B, (T,) H, W] int16, on the latent: 0 nobody, n + 1 word n, as it was when the step ended
    acted: bool  # whether owners had a say in this step

    def cpu(self) -> ApartStep:
        return self._replace(peaks=self.peaks.cpu(), maps=self.maps.cpu(), owner=self.owner.cpu())


class ApartTrace(NamedTuple):
    """One finished sampling run, on the CPU."""

    words: tuple[str, ...]
    steps: tuple[ApartStep, ...]
    total: int  # sampler steps
    shares: Tensor  # [1 + words], of the picture, that nobody and each word owns: the mean of all images and steps
    acted: int  # layers whose attention was changed
    layers: int  # of the model
    fingerprint: Tensor  # of the latent that the run returned

    def curves(self) -> WordCurves:
        maps = self.steps[-1].maps
        peaks = torch.stack([step.peaks for step in self.steps])
        return WordCurves(self.words, tuple(step.step for step in self.steps), peaks, maps, (0.0, float(maps.max())))

    def regions(self, strength: float, downscale: int) -> Regions:
        """Whose each place was; the rate is how much of the others' words was taken away there."""
        names = (Region(0, 0, ""), *(Region(0, 1 + number, word) for number, word in enumerate(self.words)))
        rates = torch.tensor([[0.0, *len(self.words) * [strength]]])
        steps = tuple(
            RegionStep(step.step, step.sigma, step.owner, rates.expand(len(step.owner), -1),
                       (step.owner > 0).half() * strength)
            for step in self.steps
        )
        return Regions(names, steps, downscale, self.fingerprint, NODE)

    def summary(self) -> str:
        """One line: what was whose, where and when."""
        nobody, *owned = (100 * self.shares).tolist()
        parts = [f"{word} {share:.0f} %" for word, share in zip(self.words, owned, strict=True)]
        numbers = [step.step for step in self.steps if step.acted]
        where = f"{', '.join(parts)} of the picture; nobody {nobody:.0f} %"
        if not numbers:
            return f"{where}; nothing was kept apart."
        return f"{where}; acted in {self.acted} of {self.layers} layers, {named(numbers)} of {self.total}."

    def without_place(self) -> list[str]:
        """The words that owned no place at any step."""
        return [word for word, share in zip(self.words, self.shares[1:].tolist(), strict=True) if not share]


def mean_shares(steps: list[Tensor], words: int) -> Tensor:
    """[B, 1 + words] of each step -> [1 + words] on the CPU."""
    return torch.cat(steps).mean(dim=0).cpu() if steps else torch.zeros(1 + words)
