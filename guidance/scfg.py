"""S-CFG: a guidance scale for every semantic region.

Shen et al., "Rethinking the Spatial Inconsistency in Classifier-Free Diffusion Guidance", CVPR 2024.
At each step the attention of the denoiser itself divides the latent into regions, one per text token; the scale of
each region is then set so that cond - uncond has the same mean norm in it as in the foreground.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .attention_maps import EPSILON, normalise
from .smoothing import smooth


def foreground_pair(start: Tensor, rest: Tensor) -> Tensor:
    """Evidence for background and foreground, [B, 2, h, w], from the maps of the start token and of all others.

    start, rest: [B, 1, h, w]; smoothed but not normalised.
    """
    return normalise(torch.cat([start, rest], dim=1), epsilon=0.0)


def assign_tokens(token_maps: Tensor) -> Tensor:
    """The regions: each position belongs to its strongest token. [B, N, h, w] -> bool, same shape; ties share."""
    return token_maps == token_maps.amax(dim=1, keepdim=True)


def foreground(pair: Tensor) -> Tensor:
    """Where the text of the (negative) prompt outweighs its start token. [B, 2, h, w] -> bool [B, 1, h, w]."""
    return pair[:, 1:] > pair[:, :1]


def _mean_over(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum(dim=(-2, -1)) / (weights.sum(dim=(-2, -1)) + EPSILON)


def region_rates(difference: Tensor, regions: Tensor, reference: Tensor) -> Tensor:
    """How much stronger or weaker each region must be guided to match the reference region. [B, N].

    difference: [B, C, H, W], cond - uncond in any space (only ratios count). regions: [B, N, H, W] weights in 0..1.
    reference: [B, 1, H, W], the foreground, or ones for the whole image. An empty region has rate 0.
    """
    norm = difference.float().norm(dim=1, keepdim=True)  # [B, 1, H, W]
    level = _mean_over(norm, reference)  # [B, 1]
    rates = level / (_mean_over(norm, regions) + EPSILON)
    return torch.where(regions.sum(dim=(-2, -1)) > 0, rates, torch.zeros_like(rates))


def rate_map(
    rates: Tensor, regions: Tensor, scale: float, rate_min: float = 0.8, rate_max: float = 3.0, scale_cap: float = 15.0
) -> Tensor:
    """The rate at each position of the latent, limited and smoothed. [B, N], [B, N, H, W] -> [B, 1, H, W].

    scale is the CFG scale; scale_cap bounds scale * rate (0 = no bound) and wins over rate_min.
    """
    rate = torch.einsum("bn,bnhw->bhw", rates, regions).unsqueeze(1).clamp(rate_min, rate_max)
    if scale_cap > 0 and scale > 0:
        rate = rate.clamp(max=scale_cap / scale)
    return smooth(rate)


def guide(denoised: Tensor, cond: Tensor, uncond: Tensor, rate: Tensor, scale: float) -> Tensor:
    """Turn plain CFG into S-CFG: add scale * (rate - 1) * (cond - uncond) to what CFG gave.

    All [B, C, H, W] but rate, [B, 1, H, W]. With denoised = uncond + scale * (cond - uncond) the result is the
    paper's uncond + scale * rate * (cond - uncond); written as a sum it composes with other guidance.
    """
    return denoised + scale * (rate.to(denoised.dtype) - 1) * (cond - uncond)
