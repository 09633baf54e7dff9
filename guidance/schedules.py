"""CFG weight schedules: how strongly to guide at each moment of sampling.

Wang et al., "Analysis of Classifier-Free Guidance Weight Schedulers", TMLR 2024, https://arxiv.org/abs/2404.13040.
There eps = (1 + w) eps_c - w eps_u: the weight w is the CFG scale less 1, and w = 0 is no guidance. Every schedule is
a factor f on a constant weight w0. Progress is the paper's 1 - t/T: 0 at the most noise, 1 at the picture, so that
the paper's "linear" and "cosine" rise while sampling.

Chung et al., "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models", ICLR 2025,
https://arxiv.org/abs/2406.08070, whose step is Euler's with a CFG scale that depends on the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

# Factor by progress in 0..1; the mean of each is 1.
SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 2 * progress,
    "inverse linear": lambda progress: 2 * (1 - progress),
    "cosine": lambda progress: 1 - math.cos(math.pi * progress),
    "inverse cosine": lambda progress: 1 + math.cos(math.pi * progress),  # the paper's "sine"
    "V": lambda progress: 2 * abs(1 - 2 * progress),
    "Lambda": lambda progress: 2 * (1 - abs(1 - 2 * progress)),
}


def powered_cosine(progress: float, power: float) -> float:
    """The factor of pcs, from 0 to 1; its mean is 1/2 at power 1. A power below 1 rises sooner, above 1 later."""
    return (1 - math.cos(math.pi * progress**power)) / 2


def clamped(weight: float, clamp: float) -> float:
    """clamp-linear and clamp-cosine, for any schedule: a weight that never falls below c."""
    return max(clamp, weight)


def cfgpp_scale(strength: float, sigma: float, next_sigma: float, flow: bool = False) -> float:
    """The CFG scale with which Euler's step from sigma to next_sigma < sigma is that of CFG++.

    strength: the paper's lambda. flow: the latent is (1 - sigma) x0 + sigma noise, else x0 + sigma noise.
    """
    scale = strength * sigma / (sigma - next_sigma)
    return scale * (1 - next_sigma) if flow else scale
