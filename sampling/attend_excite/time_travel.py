"""Time travel: a step is taken several times, each time from where it has led, with fresh noise back to its start.

Shen et al., 2024, https://arxiv.org/abs/2403.12404, section on resampling; each time the latent is moved anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...guidance.attention_losses import noised_again

APART = 0x5E3A17C0DE  # keeps this noise from being the seed's own, with which sampling starts


class Travel(NamedTuple):
    """How often steps are taken, and which: shares of all steps, both ends included."""

    times: int = 1
    start: float = 0.2  # t = 800 of 1000
    end: float = 0.7  # t = 300


class TimeTravel:
    """The noise of one run. levels: (share of image, share of noise) of a latent at each sigma of its schedule."""

    def __init__(self, travel: Travel, levels: Sequence[tuple[float, float]], progress: Sequence[float]):
        """progress: of each step, from 0 at the most noise to 1."""
        self.travel = travel
        self.levels = levels
        self.progress = progress
        self._generator: torch.Generator | None = None

    def more(self, step: int) -> int:
        """How often this step is taken beside the sampler's own time. The last leads to the picture, without noise."""
        inside = self.travel.start - 1e-6 <= self.progress[step] <= self.travel.end + 1e-6
        return self.travel.times - 1 if inside else 0

    def back(self, step: int, x: Tensor, denoised: Tensor, seed: int | None) -> Tensor:
        """The latent of a step once it has been taken by Euler's rule to the next sigma, and noised again."""
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(((seed or 0) + APART) % 2**63)
        (image, noise), (next_image, next_noise) = self.levels[step], self.levels[step + 1]
        predicted = (x - image * denoised) / noise
        fresh = torch.randn(x.shape, generator=self._generator, dtype=torch.float32).to(x)
        return noised_again(next_image * denoised + next_noise * predicted, fresh, (image, noise),
                            (next_image, next_noise))
