"""Which steps of a run move the latent, how far a move reaches at each, and which layers are read."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...attention_hooks.families import Family, layers_at
from ...attention_hooks.layouts import Layer
from ...guidance.attend_excite import Excitation, Step, schedule
from ..percent import percent_at
from .gradient import POOL

NODE = "Attend-and-Excite"
PAPERS_GRID = 16


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


def variances(model_sampling: Any, sigmas: Tensor) -> list[float]:
    """That of a latent at each sigma of the schedule, made of an image and of noise that both have variance 1."""
    sigmas = sigmas.double()
    one, zero = torch.ones_like(sigmas), torch.zeros_like(sigmas)
    noise, image = model_sampling.noise_scaling(sigmas, one, zero), model_sampling.noise_scaling(sigmas, zero, one)
    return (noise**2 + image**2).tolist()


def layers_for(
    family: Family, layers: list[Layer], downsample: int | None, latent: tuple[int, int]
) -> tuple[int, list[Layer]]:
    """The layers whose attention is averaged, and how much coarser than the latent [H, W] the maps are.

    downsample None: the grid whose number of positions is nearest to 16x16. The middle block alone, as it is for SD 1.x
    at the coarsest grid, is not among the paper's layers and is chosen only where there is nothing else. All layers of
    a transformer have one grid, whose positions are taken together by 2 x 2: 16x16 for a latent of 64x64, as well.
    """
    if family.kind != "unet":
        downsample, layers = layers_at(family, layers, downsample, NODE)
        return POOL * downsample, layers
    outside = [layer for layer in layers if layer.block[0] != "middle"]
    present = sorted({layer.downsample for layer in outside or layers})
    if downsample is None:
        positions = {d: math.prod(-(-size // d) for size in latent) for d in present}
        downsample = min(present, key=lambda d: abs(math.log(positions[d] / PAPERS_GRID**2)))
    return downsample, [layer for layer in layers if layer.downsample == downsample]
