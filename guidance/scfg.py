"""S-CFG: a guidance scale for every semantic region.

Shen et al., "Rethinking the Spatial Inconsistency in Classifier-Free Diffusion Guidance", CVPR 2024.
At each step the attention of the denoiser itself divides the latent into regions, one per text token; the scale of
each region is then set so that cond - uncond has the same mean norm in it as in the foreground.

Latents are [B, C, *size]: [B, C, H, W], or [B, C, T, H, W] for video, in which a region is a tube through all frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .attention_maps import EPSILON, normalise
from .precision import widen
from .smoothing import smooth

COMPARED = 2**22  # pairs of a position and a region that are looked at together: 20 MB


class Partition(NamedTuple):
    """The regions into which one prompt divides the latent."""

    owner: Tensor  # [B, 1, *size] int64, the region of each position
    share: Tensor  # [B, 1, *size], the prompt's part of the result; those of all prompts sum to 1
    regions: int


def foreground_pair(start: Tensor, rest: Tensor) -> Tensor:
    """Evidence for background and foreground, [B, 2, *grid], from the maps of the start token and of all others.

    start, rest: [B, 1, *grid]; smoothed but not normalised.
    """
    return normalise(torch.cat([start, rest], dim=1), epsilon=0.0)


def assign_tokens(token_maps: Tensor) -> Tensor:
    """The regions: each position belongs to its strongest token. [B, N, *grid] -> int64 [B, 1, *grid].

    Of tokens that are exactly equal the first one owns the position; in the authors' code all of them do, and their
    rates are added.
    """
    return token_maps.argmax(dim=1, keepdim=True)


def foreground(pair: Tensor) -> Tensor:
    """Where the text of the (negative) prompt outweighs its start token. [B, 2, *grid] -> bool [B, 1, *grid]."""
    return pair[:, 1:] > pair[:, :1]


def _sum_by_region(values: Tensor, owner: Tensor, regions: int) -> Tensor:
    """[B, P], [B, P] -> [B, regions]. Not scatter_add: on a GPU it adds in another order each time."""
    numbers = torch.arange(regions, device=owner.device)[:, None]  # [regions, 1]
    blocks = numbers.split(max(1, COMPARED // owner.numel()))
    return torch.cat([((owner[:, None] == block) * values[:, None]).sum(dim=-1) for block in blocks], dim=1)


def region_rates(difference: Tensor, partition: Partition, reference: Tensor) -> Tensor:
    """How much stronger or weaker each region must be guided to match the reference region. [B, regions].

    difference: [B, C, *size], cond - uncond in any space (only ratios count). reference: [B, 1, *size] in 0..1, the
    foreground, or ones for the whole image. An empty region has rate 0.
    """
    norm = widen(difference).norm(dim=1).flatten(1)  # [B, P]
    owner, share, reference = partition.owner.flatten(1), partition.share.flatten(1), reference.flatten(1)
    level = (norm * reference).sum(dim=1, keepdim=True) / (reference.sum(dim=1, keepdim=True) + EPSILON)
    size = _sum_by_region(share, owner, partition.regions)
    mean = _sum_by_region(norm * share, owner, partition.regions) / (size + EPSILON)
    return torch.where(size > 0, level / (mean + EPSILON), 0)


def rate_map(
    rates: Sequence[Tensor], partitions: Sequence[Partition], cfg_scale: float, rate_min: float = 0.8,
    rate_max: float = 3.0, scale_cap: float = 15.0,
) -> Tensor:
    """The rate at each position of the latent, limited and smoothed within each frame. [B, 1, *size].

    rates: [B, regions] of each prompt's partition. scale_cap bounds cfg_scale * rate (0 = no bound) and wins over
    rate_min.
    """
    rate = sum(
        partition.share * values.gather(1, partition.owner.flatten(1)).view_as(partition.owner)
        for values, partition in zip(rates, partitions, strict=True)
    )
    rate = rate.clamp(rate_min, rate_max)
    if scale_cap > 0 and cfg_scale > 0:
        rate = rate.clamp(max=scale_cap / cfg_scale)
    return smooth(rate)


def guide(denoised: Tensor, cond: Tensor, uncond: Tensor, rate: Tensor, cfg_scale: float) -> Tensor:
    """Turn plain CFG into S-CFG: add cfg_scale * (rate - 1) * (cond - uncond) to what CFG gave.

    All [B, C, *size] but rate, [B, 1, *size]. With denoised = uncond + cfg_scale * (cond - uncond) the result is the
    paper's uncond + cfg_scale * rate * (cond - uncond); written as a sum it composes with other guidance.
    """
    return denoised + cfg_scale * (rate.to(denoised.dtype) - 1) * (cond - uncond)
