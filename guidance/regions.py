"""Prompts for regions of a picture: where each of them acts, and in what share.

At a position x of the picture, attention becomes

    out(x) = (1 - sum_r s_r M_r(x)) Attn(x, base) + sum_r s_r M_r(x) Attn(x, prompt r)

with M_r in 0..1 the place of region r, sum_r M_r <= 1, and s_r its strength: 1 - s_r of it stays the base prompt's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import widen

GROWN = 2  # cells by which a region may leave its box where it snaps freely
EPSILON = 1e-8


class Box(NamedTuple):
    """Edges as shares of the picture, from its upper left corner; parts outside of 0..1 are outside of the picture."""

    left: float
    top: float
    right: float
    bottom: float


def box_cover(box: Box, size: Sequence[int]) -> Tensor:
    """The share of each cell that a box covers, on every frame. [1, *size]; size is H, W or T, H, W."""
    rows, columns = _overlap(box.top, box.bottom, size[-2]), _overlap(box.left, box.right, size[-1])
    return (rows[:, None] * columns).expand(1, *size)


def _overlap(start: float, end: float, cells: int) -> Tensor:
    """The share of each of `cells` equal parts of 0..1 that lies between start and end. [cells]."""
    first = torch.arange(cells, dtype=torch.float64)
    covered = (first + 1).clamp(max=end * cells) - first.clamp(min=start * cells)
    return covered.clamp(0, 1).float()


def resample(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks [N, H, W] or [N, T, H, W] on a grid of another size, each cell with the mean of what it covers."""
    if tuple(masks.shape[1:]) == tuple(size):
        return masks
    pool = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
    return pool(masks[:, None], tuple(size))[:, 0]


def exclusive(masks: Sequence[Tensor]) -> Tensor:
    """Masks [N or 1, *size] in which the first of the list wins: each takes what those before it leave. [R, N, *size].

    Soft edges stay: two that overlap at a half each have a half, and then a quarter.
    """
    rest = torch.ones_like(masks[0])
    taken = []
    for mask in masks:
        taken.append(mask * rest)
        rest = rest - taken[-1]
    return torch.stack(torch.broadcast_tensors(*taken))


def prompt_shares(places: Tensor, strengths: Sequence[float]) -> Tensor:
    """The share of each prompt in each position, the base prompt's first. [R, N, *size] -> [1 + R, N, *size]."""
    of_regions = places * places.new_tensor(strengths).view(-1, *[1] * (places.ndim - 1))
    return torch.cat([(1 - of_regions.sum(dim=0, keepdim=True)).clamp_min(0), of_regions])


def snapped(boxes: Tensor, seen: Tensor, threshold: float, grow: bool) -> tuple[Tensor, Tensor]:
    """Boxes [N, *size] cut to where the region's own words stand out; the box itself where they do nowhere in it.

    seen: [N, *size], the attention to these words; they stand out where it is `threshold` standard deviations above
    its mean. grow: up to GROWN cells around the box count, too.
    Returns the places and, for each, whether it is cut: [N].
    """
    seen = widen(seen)
    dims = tuple(range(1, seen.ndim))
    deviation = seen.std(dim=dims, keepdim=True, correction=0)
    stands_out = (seen - seen.mean(dim=dims, keepdim=True)) / deviation.clamp_min(EPSILON) > threshold
    allowed = boxes
    if grow:
        frames = (boxes > 0).to(seen.dtype).flatten(0, -3)[:, None]  # [N * T, 1, h, w]
        allowed = F.max_pool2d(frames, 2 * GROWN + 1, 1, GROWN).view_as(seen)
    cut = allowed * stands_out
    found = cut.flatten(1).amax(dim=1) > 0
    return torch.where(found.view(-1, *[1] * (seen.ndim - 1)), cut.to(boxes.dtype), boxes), found


def isolated(blocks: int, share: float) -> list[bool]:
    """Which of `blocks` blocks, evenly spread, are the share of them: every second one at 0.5."""
    return [int((block + 1) * share + EPSILON) > int(block * share + EPSILON) for block in range(blocks)]
