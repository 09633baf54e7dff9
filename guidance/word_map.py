"""From the attention that a word gets to a mask of where it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_mask(attention: Tensor, share: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask [B, *size] from a word's attention [B, H, W]: 0 where it is least, 1 where it is most.

    share: [B, H, W] in 0..1, how much the prompts with this word count at each position. The attention is compared
    where they count, and the mask fades as they do.
    """
    seen = share > 0
    low = torch.where(seen, attention, torch.inf).amin(dim=(-2, -1), keepdim=True)
    high = torch.where(seen, attention, -torch.inf).amax(dim=(-2, -1), keepdim=True)
    mask = (attention - low).relu() / (high - low).clamp_min(1e-8) * share
    mask = F.interpolate(mask.unsqueeze(1), size, mode="bilinear").squeeze(1)
    return mask / mask.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-8)


def contrast(attention: Tensor, share: Tensor) -> Tensor:
    """How uneven a word's attention [B, H, W] is where share > 0: its standard deviation over its mean, [B]."""
    seen = (share > 0).to(attention.dtype)
    count = seen.sum(dim=(-2, -1))
    mean = (attention * seen).sum(dim=(-2, -1)) / count
    deviation = (attention - mean[:, None, None]) * seen
    return (deviation.square().sum(dim=(-2, -1)) / count).sqrt() / mean
