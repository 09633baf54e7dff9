"""The small blur that S-CFG, Attend-and-Excite and LEDITS++ share.

All three build a 3x3 "Gaussian" with sigma 0.5 whose exponent is -(x / (2 sigma))^2, not the textbook
-x^2 / (2 sigma^2): its standard deviation is really sigma * sqrt(2) = 0.707.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIGMA = 0.5
_NEIGHBOUR = math.exp(-((1 / (2 * SIGMA)) ** 2))
TAPS = [tap / (1 + 2 * _NEIGHBOUR) for tap in (_NEIGHBOUR, 1.0, _NEIGHBOUR)]  # 0.2119, 0.5761, 0.2119
KERNEL = [(row, column, TAPS[row] * TAPS[column]) for row in range(3) for column in range(3)]


def _pad(maps: Tensor, axis: int) -> Tensor:
    size = maps.shape[axis]
    step = 1 if size > 1 else 0  # nothing to reflect in a single position, so it stands in for its neighbours
    return torch.cat([maps.narrow(axis, step, 1), maps, maps.narrow(axis, size - 1 - step, 1)], dim=axis)


def smooth(maps: Tensor) -> Tensor:
    """Blur the last two axes with reflect padding, in the dtype of the input.

    maps: [..., h, w], any h and w from 1 on. Returns the same shape; a constant map stays as it is.
    Sums of slices rather than conv2d: on CUDA that would round to TF32, and the gradient of reflect padding
    would differ from run to run.
    """
    height, width = maps.shape[-2:]
    padded = _pad(_pad(maps, -1), -2)  # [..., h + 2, w + 2]
    return sum(tap * padded[..., row : row + height, column : column + width] for row, column, tap in KERNEL)
