"""Losses on where a model attends to words, beside Attend-and-Excite's own, and steps beside the paper's.

Overlap: Qiu et al., "Self-Cross Diffusion Guidance for Text-to-Image Synthesis of Similar Subjects", CVPR 2025,
https://arxiv.org/abs/2411.18936. A position counts here by its attention to the subject, where the authors choose
positions by Otsu's threshold.
Inside: Xie et al., "BoxDiff: Text-to-Image Synthesis with Training-Free Box-Constrained Diffusion", ICCV 2023,
https://arxiv.org/abs/2307.10816, its inner- and outer-box constraints; a region may have any shape.
Size: Epstein et al., "Diffusion Self-Guidance for Controllable Image Generation", NeurIPS 2023,
https://arxiv.org/abs/2306.00986.
Polyak's step: Shen et al., "Understanding and Improving Training-free Loss-based Diffusion Guidance", NeurIPS 2024,
https://arxiv.org/abs/2403.12404; the noise to which a step is taken back: its time travel.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRONGEST = 0.2  # of a region's positions, and of those outside: BoxDiff's share


def attended(cross: Tensor, own: Tensor) -> Tensor:
    """Where the positions of each subject attend, S_i = C_i S.

    cross: [..., subjects, P], their cross-attention; own: [..., P, P], self-attention. Returns [..., subjects, P].
    """
    return cross @ own


def overlap_loss(spread: Tensor, cross: Tensor) -> Tensor:
    """sum over i != j of sum over positions of min(S_i, C_j), with maps that sum to 1. Two subjects: 0 to 2.

    spread: `attended`, cross: [B, subjects, P]. Returns [B].
    """
    spread, cross = _shares(spread), _shares(cross)
    pairs = torch.minimum(spread[:, :, None], cross[:, None]).sum(-1)  # [B, i, j]
    return pairs.sum((1, 2)) - pairs.diagonal(dim1=1, dim2=2).sum(-1)


def _shares(maps: Tensor) -> Tensor:
    return maps / maps.sum(-1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def inside_loss(maps: Tensor, region: Tensor) -> Tensor:
    """How little of each subject is in the region, and how much outside: 0 to 2. Returns [B, subjects].

    maps: [B, subjects, P], scores in 0..1; region: [B, P] bool. The strongest fifth of the positions inside, and of
    those outside, stands for all; at least one does.
    """
    inside = 1 - _strongest(maps, region)
    return inside + _strongest(maps, ~region)


def _strongest(maps: Tensor, region: Tensor) -> Tensor:
    """The mean of the highest values in the region. [B, subjects, P], [B, P] -> [B, subjects]"""
    count = (STRONGEST * region.sum(-1)).ceil().clamp_min(1)[:, None, None]  # [B, 1, 1]
    ranked = maps.masked_fill(~region[:, None], 0).sort(dim=-1, descending=True).values
    counts = torch.arange(maps.shape[-1], device=maps.device) < count
    return (ranked * counts).sum(-1) / count[..., 0]


def size_loss(maps: Tensor, size: float) -> Tensor:
    """How far the share of the picture that each subject takes is from `size`. [B, subjects, P] -> [B, subjects]"""
    return (maps.mean(-1) - size).abs()


def polyak_rate(noise: Tensor, gradient: Tensor, eta: float) -> Tensor:
    """rho = eta |eps| / |g|^2, by which g is multiplied. noise: |eps| of each image, [B]; gradient: [B, ...].

    The same for x = c z: dz = -rho(g_z) g_z is dx = -rho(g_x) g_x, since g_z = c g_x.
    """
    squared = gradient.flatten(1).square().sum(1)
    return torch.where(squared > 0, eta * noise / squared.clamp_min(torch.finfo(gradient.dtype).tiny), 0)


def noised_again(
    x: Tensor, fresh: Tensor, before: tuple[float, float], now: tuple[float, float]
) -> Tensor:
    """A latent taken back from one noise level to an earlier one with fresh noise, as if it had been drawn there.

    before, now: shares of image and noise in x = image x0 + noise eps: (1, sigma), in straight flow (1 - sigma, sigma).
    For variance-preserving latents this is sqrt(a / a') z + sqrt(1 - a / a') xi.
    """
    ratio = before[0] / now[0]
    return ratio * x + max(before[1] ** 2 - (ratio * now[1]) ** 2, 0.0) ** 0.5 * fresh
