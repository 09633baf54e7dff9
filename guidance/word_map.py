"""From the attention that a word gets to a mask of where it is. Maps are [B, H, W], or [B, T, H, W] for clips."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _axes(maps: Tensor) -> tuple[int, ...]:
    return tuple(range(1, maps.ndim))


def soft_mask(attention: Tensor, share: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask of height and width `size` from a word's attention: 0 where it is least, 1 where it is most.

    share: as attention, in 0..1, how much the prompts with this word count at each position. The attention is compared
    where they count, in all frames of a clip together, and the mask fades as they do.
    """
    axes = _axes(attention)
    seen = share > 0
    low = torch.where(seen, attention, torch.inf).amin(dim=axes, keepdim=True)
    high = torch.where(seen, attention, -torch.inf).amax(dim=axes, keepdim=True)
    mask = (attention - low).relu() / (high - low).clamp_min(1e-8) * share
    frames = F.interpolate(mask.flatten(0, -3).unsqueeze(1), size, mode="bilinear")
    mask = frames.squeeze(1).unflatten(0, mask.shape[:-2])
    return mask / mask.amax(dim=axes, keepdim=True).clamp_min(1e-8)


def contrast(attention: Tensor, share: Tensor) -> Tensor:
    """How uneven a word's attention is where share > 0: its standard deviation over its mean, [B]."""
    seen = (share > 0).to(attention.dtype)
    axes = _axes(attention)
    count = seen.sum(dim=axes)
    mean = (attention * seen).sum(dim=axes) / count
    deviation = (attention - mean.view(-1, *[1] * len(axes))) * seen
    return (deviation.square().sum(dim=axes) / count).sqrt() / mean
