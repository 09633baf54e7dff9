"""What Keep Apart saw and did, kept for Attention Curves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..record import IF_CACHED, RunRecord


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

    def summary(self) -> str:
        """One line: what was whose, where and when."""
        nobody, *owned = (100 * self.shares).tolist()
        parts = [f"{word} {share:.0f} %" for word, share in zip(self.words, owned, strict=True)]
        numbers = [step.step + 1 for step in self.steps if step.acted]
        where = f"{', '.join(parts)} of the picture; nobody {nobody:.0f} %"
        if not numbers:
            return f"{where}; nothing was kept apart."
        steps = f"step {numbers[0]}" if len(numbers) == 1 else f"steps {numbers[0]}-{numbers[-1]}"
        return f"{where}; acted in {self.acted} of {self.layers} layers, {steps} of {self.total}."

    def without_place(self) -> list[str]:
        """The words that owned no place at any step."""
        return [word for word, share in zip(self.words, self.shares[1:].tolist(), strict=True) if not share]


def mean_shares(steps: list[Tensor], words: int) -> Tensor:
    """[B, 1 + words] of each step -> [1 + words] on the CPU."""
    return torch.cat(steps).mean(dim=0).cpu() if steps else torch.zeros(1 + words)


class ApartRecord(RunRecord):
    """The traces of one Keep Apart node's runs."""

    def of(self, samples: Tensor) -> ApartTrace:
        """The run that made this latent. ValueError, with the way out, where there is none."""
        trace = self.find(samples)
        if trace is not None:
            return trace
        raise ValueError(
            "the latent is not one that a sampler with this Keep Apart node returned. Connect the node's MODEL to a "
            "sampler, that sampler's LATENT to this node, and keep strength above 0 or emphasis above 1. "
            f"{IF_CACHED}"
        )
