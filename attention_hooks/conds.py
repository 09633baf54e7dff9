"""What the host does with several conds at once: where each acts, and how strongly."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from comfy.samplers import get_area_and_mult
from torch import Tensor


class Placed(NamedTuple):
    """A cond that is active at this step. share: [B, 1, H, W], its part of the result; all shares sum to 1.

    top, left, height, width: the part of the latent on which the model sees the cond.
    """

    cond: dict[str, Any]
    area: tuple[int, int, int, int]
    share: Tensor


def text_length(cond: dict[str, Any]) -> int | None:
    """Number of text tokens of a processed cond, before the host repeats them; None without text."""
    text = cond.get("model_conds", {}).get("c_crossattn")
    return None if text is None else text.cond.shape[1]


def placed_conds(conds: list[dict[str, Any]], x: Tensor, sigma: Tensor) -> list[Placed]:
    """The conds of one prompt list that act on x [B, C, H, W] at this sigma, weighted as the host weights them."""
    height, width = x.shape[-2:]
    placed, defaults = [], []
    for cond in conds:
        described = get_area_and_mult(cond, x, sigma)
        if described is None:  # outside its timestep range
            continue
        h, w, top, left = described.area or (height, width, 0, 0)
        share = x.new_zeros((x.shape[0], 1, height, width), dtype=torch.float32)
        share[..., top : top + h, left : left + w] = described.mult[:, :1]
        item = Placed(cond, (top, left, h, w), share)
        (defaults if "default" in cond else placed).append(item)
    if defaults:  # they fill what the others leave
        left = (1 - sum((item.share for item in placed), torch.zeros_like(defaults[0].share))).relu()
        if left.any():
            placed += [item._replace(share=left) for item in defaults]
    total = sum(item.share for item in placed)
    return [item._replace(share=item.share / total.clamp_min(1e-8)) for item in placed]
