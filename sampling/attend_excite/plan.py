"""Which steps of a run move the latent, and how far a move reaches at each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...guidance.attend_excite import Excitation, Step, schedule
from ..percent import percent_at

NODE = "Attend-and-Excite"


def plan_steps(excitation: Excitation, model_sampling: Any, sigmas: Tensor, empty: bool) -> dict[int, Step]:
    """The steps of this run that move the latent. sigmas: on the CPU; empty: whether there is no image to start from.

    The paper's shares are of all steps from pure noise to the image. A run that starts or stops between (image to
    image, advanced samplers) is taken for that part of a longer one. Without an image it starts from noise, however
    much less than the most its scheduler begins with.
    """
    steps = len(sigmas) - 1
    first, last = (percent_at(model_sampling, float(sigma)) for sigma in (sigmas[0], sigmas[-1]))
    if empty or first * steps <= 1:  # schedulers may begin one step below the most noise
        first = 0.0
    total = max(steps, round(steps / max(last - first, 1e-3)))
    offset = round(first * total)
    return dict(enumerate(schedule(excitation, total)[offset : offset + steps]))


def levels(model_sampling: Any, sigmas: Tensor) -> list[tuple[float, float]]:
    """What a latent is made of at each sigma of the schedule: its share of the image, and of the noise."""
    sigmas = sigmas.double()
    one, zero = torch.ones_like(sigmas), torch.zeros_like(sigmas)
    image, noise = model_sampling.noise_scaling(sigmas, zero, one), model_sampling.noise_scaling(sigmas, one, zero)
    return list(zip(image.tolist(), noise.tolist(), strict=True))
