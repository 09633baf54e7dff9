"""From attention probabilities to smoothed token maps: what S-CFG, Word Mask and LEDITS++ share.

Completion and renormalisation are those of Shen et al., "Rethinking the Spatial Inconsistency in Classifier-Free
Diffusion Guidance", CVPR 2024.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import widen
from .smoothing import smooth

EPSILON = 1e-8

Completion = Literal["as released", "power series", "none"]
COMPLETIONS: tuple[Completion, ...] = ("as released", "power series", "none")
POWERS = 4


class SupportsMatmul(Protocol):
    """A head-averaged self-attention [B, P, P], or anything that can be multiplied like one."""

    def __matmul__(self, other: Tensor) -> Tensor: ...


def complete(self_attention: SupportsMatmul, cross_attention: Tensor, completion: Completion) -> Tensor:
    """Spread token maps along self-attention, so that a word covers its whole object (paper 4.1.2).

    self_attention: [B, P, P], rows sum to 1. cross_attention: [B, P, N]. Returns [B, P, N].
    "power series" is the paper's mean of S^r C for r = 1..4. "as released" is what the authors' code computes,
    (S C + 3 S^2 C) / 4: their loop multiplies by S again instead of raising the power. S^r is never formed.
    """
    if completion == "none":
        return cross_attention
    once = self_attention @ cross_attention
    twice = self_attention @ once
    if completion == "as released":
        return (once + 3 * twice) / POWERS
    total, power = once + twice, twice
    for _ in range(POWERS - 2):
        power = self_attention @ power
        total = total + power
    return total / POWERS


def in_cells(attention: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Means over cells of 2 x 2 positions within each frame. [B, P, N] on a grid t x h x w -> [B, P', N]."""
    maps = attention.transpose(1, 2).unflatten(2, grid)  # [B, N, t, h, w]
    frames = F.avg_pool2d(maps.flatten(1, 2), 2, ceil_mode=True)  # the last cells of odd sizes have fewer members
    return frames.unflatten(1, maps.shape[1:3]).flatten(2).transpose(1, 2)


def to_grid(attention: Tensor, layer_grid: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """Token maps [B, P, N] of a layer of h x w = P positions, as smoothed pictures, fp32 or wider, [B, N, *grid].

    Grids are (h, w), or (t, h, w) for video, of which only h and w may differ: each frame is a picture of its own.
    """
    maps = widen(attention).transpose(1, 2).unflatten(2, layer_grid)  # [B, N, *layer_grid]
    if layer_grid != grid:
        maps = resize(maps, grid[-2:])
    return smooth(maps)


def resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear resize of the last two axes of maps [B, N, h, w] or [B, N, t, h, w]."""
    frames = F.interpolate(maps.flatten(1, -3), size=size, mode="bilinear", align_corners=False)
    return frames.unflatten(1, maps.shape[1:-2])


def normalise(maps: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Divide each map [B, N, *grid] by its mean, of all frames together (the paper's renormalised cross-attention)."""
    return maps / (maps.mean(dim=tuple(range(2, maps.ndim)), keepdim=True) + epsilon)


def enlarge(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Nearest-neighbour resize of maps [B, N, *grid] to a latent's size, of any dtype."""
    for axis, length in enumerate(size, start=2):
        nearest = torch.arange(length, device=maps.device) * maps.shape[axis] // length
        maps = maps.index_select(axis, nearest)
    return maps
