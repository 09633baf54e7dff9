"""SEGA: semantic guidance, the part that turns noise predictions into an edit.

Brack et al., "SEGA: Instructing Text-to-Image Models using Semantic Guidance", NeurIPS 2023,
https://arxiv.org/abs/2301.12247. The order of operations is that of the authors' second version, which
Diffusers also ships. psi, lambda (threshold), nu, s_m (momentum scale) and beta are the paper's.

Predictions are in noise space (epsilon, v or velocity, whatever the model was trained on): the momentum mixes
steps, and only there do steps share one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .precision import widen


@dataclass(frozen=True)
class Edit:
    """How one concept acts. Warm-up and cooldown count sampler steps from 0."""

    edit_scale: float = 5.0  # edit_guidance_scale, s_e
    threshold: float = 0.9  # edit_threshold, lambda in [0, 1]: 0.9 keeps the strongest tenth of every channel
    warmup: int = 10  # first step at which the concept acts
    cooldown: int | None = None  # first step at which it no longer does
    weight: float = 1.0  # edit_weight; below zero counts as zero
    remove: bool = False  # move away from the concept

    def active(self, step: int) -> bool:
        """Past its warm-up. As in the reference, a concept that has cooled down still counts as active."""
        return step >= self.warmup

    def cooled(self, step: int) -> bool:
        return self.cooldown is not None and step >= self.cooldown


@dataclass(frozen=True)
class Momentum:
    """The momentum that all concepts share.

    A constant edit is amplified by 1 / (1 - scale) in the end; from a scale of 1 on it grows without bound.
    """

    scale: float = 0.1  # s_m
    beta: float = 0.4
    ends_with_cooldown: bool = False  # the reference lets it fade out after the last concept has cooled down

    @property
    def inert(self) -> bool:
        return self.scale == 0 or self.beta == 1


def needed(edit: Edit, step: int, momentum: Momentum) -> bool:
    """Whether the concept's prediction can change the image, at this step or through the momentum later."""
    if edit.cooled(step) or edit.edit_scale == 0 or edit.weight <= 0:
        return False
    return edit.active(step) or not momentum.inert


def channel_quantile(magnitude: Tensor, threshold: float) -> Tensor:
    """The quantile of every sample and channel on its own, over all positions of all axes from 2 on.

    magnitude: [B, C, *space] float32 or wider, at most 2^24 positions (torch.quantile limits one axis, not the whole).
    Returns [B, C, 1, ..., 1], linearly interpolated.
    """
    quantile = torch.quantile(magnitude.flatten(2), threshold, dim=2)
    return quantile.reshape(*quantile.shape, *[1] * (magnitude.ndim - 2))


def strongest(attention: Tensor, threshold: float) -> Tensor:
    """Where a map [B, 1, h, w] reaches its spatial quantile, as 0 and 1: the attention mask M1 of LEDITS++.

    Brack et al., "LEDITS++: Limitless Image Editing using Text-to-Image Models", CVPR 2024.
    """
    attention = widen(attention)
    return (attention >= channel_quantile(attention, threshold)).to(attention.dtype)


def edit_term(uncond: Tensor, concept: Tensor, edit: Edit, mask: Tensor | None = None) -> Tensor:
    """G_c: the concept's direction where it is strongest, zero elsewhere.

    uncond, concept: noise predictions [B, C, *space]; mask: broadcastable to them, 1 where the edit may act.
    The mask is applied after the threshold, so that inside it the edit is the same as without it.
    """
    psi = (widen(concept) - widen(uncond)) * (-edit.edit_scale if edit.remove else edit.edit_scale)
    magnitude = psi.abs()
    term = torch.where(magnitude >= channel_quantile(magnitude, edit.threshold), psi, 0)
    return term if mask is None else term * mask


def sega_step(
    uncond: Tensor,
    concepts: Sequence[Tensor | None],
    edits: Sequence[Edit],
    nu: Tensor | None,
    step: int,
    momentum: Momentum,
    masks: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The edit of one sampler step and the new momentum.

    uncond: noise prediction of the negative prompt [B, C, *space]; edits are measured against it
    concepts: prediction of each concept, same shape; None is allowed where `needed` says False
    nu: momentum of the previous step, None before the first; step: sampler step, 0 at the most noise
    masks: one per concept, broadcastable to [B, C, *space], or None

    Returns (edit, nu), both [B, C, *space], widened. The guided prediction is
    uncond + w (cond - uncond) + edit, with any other guidance in the place of the first two terms.
    """
    zero = torch.zeros_like(widen(uncond))
    nu = zero if nu is None else nu
    if momentum.ends_with_cooldown and all(edit.cooled(step) for edit in edits):
        return zero, zero

    weights = [0.0 if edit.cooled(step) else max(0.0, edit.weight) for edit in edits]
    terms = [
        edit_term(uncond, concept, edit, mask) if needed(edit, step, momentum) else zero
        for concept, edit, mask in zip(concepts, edits, masks or [None] * len(edits), strict=True)
    ]
    total = sum((weight * term for weight, term in zip(weights, terms, strict=True)), zero)
    total = total + momentum.scale * nu
    new_nu = momentum.beta * nu + (1 - momentum.beta) * total

    active = [c for c, edit in enumerate(edits) if edit.active(step)]
    if len(active) == len(edits):
        return total, new_nu
    # While some concepts still warm up, the others share a weight of 1 and act without momentum.
    # When all of these have cooled down the reference divides 0 by 0; their sum is zero.
    active_weight = sum(weights[c] for c in active)
    partial = sum((weights[c] / active_weight * terms[c] for c in active if weights[c] > 0), zero)
    return partial, new_nu
