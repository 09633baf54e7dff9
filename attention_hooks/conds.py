"""What the host does with several conds at once: where each acts, and how strongly."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from comfy.samplers import get_area_and_mult
from torch import Tensor

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider


class Placed(NamedTuple):
    """A cond that is active at this step. share: [B, 1, H, W], its part of the result; all shares sum to 1.

    top, left, height, width: the part of the latent on which the model sees the cond.
    """

    cond: dict[str, Any]
    area: tuple[int, int, int, int]
    share: Tensor


def give_copies_own_uuids(guider: CFGGuider) -> None:
    """Make the uuids of a run's conds tell them apart.

    For a cond with an area the host gives every other prompt one with the same area, and the uuid of the first.
    """
    for name, conds in guider.conds.items():
        own = {cond["uuid"] for cond in guider.original_conds[name]}
        for cond in conds:
            if cond["uuid"] not in own:
                cond["uuid"] = uuid.uuid4()


def text_length(cond: dict[str, Any]) -> int | None:
    """Number of text tokens of a processed cond, before the host repeats them; None without text."""
    text = cond.get("model_conds", {}).get("c_crossattn")
    return None if text is None else text.cond.shape[1]


def placed_conds(conds: list[dict[str, Any]], x: Tensor, sigma: Tensor) -> list[Placed]:
    """The conds of one prompt list that act on x [B, C, H, W] at this sigma, weighted as the host weights them."""
    height, width = x.shape[-2:]
    placed: list[Placed] = []
    defaults: list[Placed] = []
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
        rest = (1 - sum((item.share for item in placed), torch.zeros_like(defaults[0].share))).relu()
        if rest.any():
            placed += [item._replace(share=rest) for item in defaults]
    total = sum(item.share for item in placed)
    return [item._replace(share=item.share / total.clamp_min(1e-8)) for item in placed]


def covered(conds: list[dict[str, Any]], x: Tensor, sigma: Tensor) -> Tensor | None:
    """Where some cond of a prompt list acts on x [B, C, ...], as booleans of its shape; None for everywhere.

    Elsewhere the host's prediction for this list is zero.
    """
    where = torch.zeros_like(x, dtype=torch.bool)
    for cond in conds:
        described = get_area_and_mult(cond, x, sigma)
        if described is None:  # outside its timestep range
            continue
        if "default" in cond or (described.area is None and "mask" not in cond):
            return None
        view = where
        dims = x.ndim - 2
        for axis in range(dims if described.area else 0):
            view = view.narrow(axis + 2, described.area[dims + axis], described.area[axis])
        view |= described.mult > 0
    return where
