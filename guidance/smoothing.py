"""The small blur that S-CFG, Attend-and-Excite and LEDITS++ share.

All three build a 3-tap "Gaussian" with sigma 0.5 whose exponent is -(x / (2 sigma))^2, not the textbook
-x^2 / (2 sigma^2): its standard deviation is really sigma * sqrt(2) = 0.707.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIGMA = 0.5
_NEIGHBOUR = math.exp(-((1 / (2 * SIGMA)) ** 2))
SIDE_TAP = _NEIGHBOUR / (1 + 2 * _NEIGHBOUR)  # 0.2119
CENTRE_TAP = 1 / (1 + 2 * _NEIGHBOUR)  # 0.5761


def _smooth_last_axis(maps: Tensor) -> Tensor:
    size = maps.shape[-1]
    step = 1 if size > 1 else 0  # nothing to reflect in a single position, so it stands in for its neighbours
    before, after = maps[..., step : step + 1], maps[..., size - 1 - step : size - step]
    padded = torch.cat([before, maps, after], dim=-1)
    return SIDE_TAP * (padded[..., :-2] + padded[..., 2:]) + CENTRE_TAP * maps


def smooth(maps: Tensor) -> Tensor:
    """Blur the last two axes with the separable 3x3 kernel and reflect padding, in the dtype of the input.

    maps: [..., h, w], any h and w from 1 on. Returns the same shape; a constant map stays as it is.
    Sums of slices rather than conv2d: on CUDA that would round to TF32, and the gradient of reflect padding
    would differ from run to run.
    """
    rows = _smooth_last_axis(maps)
    return _smooth_last_axis(rows.transpose(-1, -2)).transpose(-1, -2)
