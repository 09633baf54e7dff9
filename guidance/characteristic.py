"""Characteristic guidance: Zheng and Lan, "Characteristic Guidance: Non-linear Correction for Diffusion Model at Large
Guidance Scale", ICML 2024, https://arxiv.org/abs/2312.07586.

A latent is x = signal * x0 + noise * eps. At CFG scale h the two predictions are taken at shifted latents, where
delta = P[noise * (eps_u(x + h delta) - eps_c(x + (h - 1) delta))], and the shifts cancel in CFG of the denoised
predictions: D_u(x + h delta) + h (D_c(x + (h - 1) delta) - D_u(x + h delta)). With delta = 0 that is plain CFG. P keeps
what lies along the first correction, channel by channel, divided by 1 + regularization (a ridge).

The fixed point is sought by Anderson acceleration, per image. The authors' solver also lowers the regularization while
it solves, from 5 at first; with the few iterations that are meant here it has its value from the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .precision import widen

MEMORY = 2  # differences of past iterations that the acceleration uses


class Basis:
    """One direction of unit length for each channel: that of the first correction, cond - uncond [B, C, *size]."""

    def __init__(self, direction: Tensor):
        flat = widen(direction).flatten(2)
        norm = flat.norm(dim=2, keepdim=True)
        self.unit = torch.where(norm > 0, flat / norm, 0).view_as(direction)

    def parts(self, values: Tensor) -> Tensor:
        """values [B, C, *size] along the basis, [B, C]."""
        return (widen(values) * self.unit).flatten(2).sum(dim=2)

    def whole(self, parts: Tensor) -> Tensor:
        """parts [B, C] -> [B, C, *size]."""
        return parts.view(*parts.shape, *[1] * (self.unit.ndim - 2)) * self.unit


class Solution(NamedTuple):
    parts: Tensor  # [B, C], of delta; those of the last iteration where it has not converged
    converged: Tensor  # bool [B]
    iterations: int


def solve(
    start: Tensor, corrected: Callable[[Tensor], Tensor], iterations: int, tolerance: float
) -> Solution:
    """Find parts [B, C] with corrected(parts) = parts; start is corrected(0). Float64, on the CPU.

    tolerance: the length of the difference that counts as none. An image that has converged is left as it is then.
    """
    parts = torch.zeros_like(start)
    tried, residuals = [parts], [start]
    converged = start.norm(dim=1) < tolerance
    failed = ~start.isfinite().all(dim=1)
    for iteration in range(iterations):
        if (converged | failed).all():
            return Solution(parts, converged, iteration)
        parts = torch.where((converged | failed)[:, None], parts, _accelerated(tried, residuals))
        found = corrected(parts)
        failed |= ~found.isfinite().all(dim=1) & ~converged
        residual = torch.where(failed[:, None], 0.0, found - parts)
        converged |= (residual.norm(dim=1) < tolerance) & ~failed
        tried, residuals = [*tried, parts][-MEMORY - 1 :], [*residuals, residual][-MEMORY - 1 :]
    return Solution(parts, converged, iterations)


def _accelerated(tried: list[Tensor], residuals: list[Tensor]) -> Tensor:
    """Anderson's next guess, with step 1: the combination of past ones whose residual is least, and its residual."""
    last = residuals[-1].nan_to_num()
    if len(tried) == 1:
        return tried[-1] + last
    of_residuals = torch.stack([last - past.nan_to_num() for past in residuals[:-1]], dim=2)  # [B, C, past]
    of_tried = torch.stack([tried[-1] - past for past in tried[:-1]], dim=2)
    weights = torch.linalg.lstsq(of_residuals, last[..., None], driver="gelsd").solution
    return tried[-1] + last - ((of_tried + of_residuals) @ weights)[..., 0]


def regularization_at(largest: float, signal_to_noise: float, first: float) -> float:
    """The ridge at a moment of sampling: the largest where the ratio of signal to noise is `first`, then a_T / a_t."""
    share, first_share = (ratio**2 / (1 + ratio**2) for ratio in (signal_to_noise, first))  # alpha bar
    return largest * min(1.0, first_share / share) if share else largest


def tolerance_length(rms: float, signal: float, noise: float, values: int) -> float:
    """The length of a latent of so many values with this root mean square, where signal^2 + noise^2 is brought to 1."""
    return rms * math.hypot(signal, noise) * math.sqrt(values)
