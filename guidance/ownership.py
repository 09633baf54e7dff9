"""Which subject owns which place: their attention maps, standardised, compete for it.

The mean of a subject's maps over what was seen so far, and its mean plus so many standard deviations as the border of
its place, are those of DeLeaker, 2025, https://arxiv.org/abs/2510.15015. There a place in two masks loses both
subjects' words; here it belongs to the one that stands out more. Morphology is a 3 x 3 blur.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import widen
from .smoothing import smooth

EPSILON = 1e-8
NOBODY = 0  # the owner of a place that stands out for no subject; subject n is n + 1


def remembered(before: Tensor | None, seen: Tensor, memory: float) -> Tensor:
    """The running mean of maps: `memory` of what was before, the rest of what is seen now."""
    return seen if before is None else memory * before + (1 - memory) * seen


def standardised(maps: Tensor) -> Tensor:
    """Blurred maps [B, S, (T,) h, w] in standard deviations from their mean, over all frames. A constant map is 0."""
    maps = smooth(widen(maps))
    dims = tuple(range(2, maps.ndim))
    mean, deviation = maps.mean(dim=dims, keepdim=True), maps.std(dim=dims, keepdim=True, correction=0)
    return (maps - mean) / deviation.clamp_min(EPSILON)


def owners(maps: Tensor, threshold: float) -> Tensor:
    """The owner of each place, [B, (T,) h, w] int64: the subject that stands out most, if by more than `threshold`.

    maps: [B, S, (T,) h, w] of the subjects' attention.
    """
    best, subject = standardised(maps).max(dim=1)
    return torch.where(best > threshold, subject + 1, NOBODY)


def weights_apart(subject: int, subjects: int, strength: float) -> tuple[float, ...]:
    """By owner, what is left of a subject's words there: all where nobody or itself owns the place."""
    return (1.0, *(1.0 if other == subject else 1 - strength for other in range(subjects)))


def owned_shares(owner: Tensor, subjects: int) -> Tensor:
    """The share of each image [B, ...] that nobody, and each subject, owns: [B, 1 + subjects]."""
    return torch.stack([(owner == number).flatten(1).float().mean(dim=1) for number in range(1 + subjects)], dim=1)
