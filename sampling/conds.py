"""What the host does with several conds at once: where each acts, and how strongly."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from comfy.samplers import get_area_and_mult
from torch import Tensor

from ..attention_hooks.families import FAMILIES
from ..guidance.precision import widen
from ..words.prompt import BOUND_KEY, CONDITIONING_KEY

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider

REGIONS_KEY = "semantic_guidance_regions"  # in a conditioning: whose regions' prompts are joined to its text
STRENGTH_KEY = "semantic_guidance_strength"  # in a conditioning: what Word Strength nodes know of it, by their marks
OF_THE_TEXT = (  # what a cond keeps of its conditioning
    "cross_attn", "attention_mask", CONDITIONING_KEY, BOUND_KEY, REGIONS_KEY, STRENGTH_KEY,
    *(family.token_ids for family in FAMILIES if family.token_ids),
)


class ActiveCond(NamedTuple):
    """A cond that is active at this step, on a latent [B, C, *size]: [B, C, H, W], or [B, C, T, H, W] for video.

    view: the part of the latent on which the model sees the cond, a slice for each axis of its size.
    share: [B, 1, *size], its part of the result; all shares sum to 1.
    """

    cond: dict[str, Any]
    view: tuple[slice, ...]
    share: Tensor

    @property
    def uuid(self) -> uuid.UUID:
        return self.cond["uuid"]

    @property
    def size(self) -> tuple[int, ...]:
        """Of the view."""
        return tuple(part.stop - part.start for part in self.view)


def give_copies_own_uuids(guider: CFGGuider) -> None:
    """Make the uuids of a run's conds tell them apart.

    For a cond with an area the host gives every other prompt one with the same area: a copy of that cond, uuid and
    conditioning included, in which only what the model is called with is the other prompt's own.
    """
    for name, conds in guider.conds.items():
        uuids = {cond["uuid"] for cond in guider.original_conds.get(name, conds)}
        own = {id(cond["model_conds"].get("c_crossattn")): cond for cond in conds if cond["uuid"] in uuids}
        for cond in conds:
            if cond["uuid"] not in uuids:
                cond["uuid"] = uuid.uuid4()
                source = own.get(id(cond["model_conds"].get("c_crossattn")), {})
                cond.update({key: source.get(key) for key in OF_THE_TEXT})


def are_alike(cond: dict[str, Any]) -> Tensor:
    """Whether all tokens of a processed cond's text are the same, as ConditioningZeroOut leaves them. Bool [B or 1].

    Attention then gives every token the same, but for rounding. A tensor, so that nothing waits for it.
    """
    text = cond["model_conds"]["c_crossattn"].cond  # [B or 1, N, C]
    return (text == text[:, :1]).flatten(1).all(dim=1)


def text_length(cond: dict[str, Any]) -> int | None:
    """Number of text tokens of a processed cond, before the host repeats them; None without text."""
    text = cond.get("model_conds", {}).get("c_crossattn")
    return None if text is None else text.cond.shape[1]


def active_conds(conds: list[dict[str, Any]], x: Tensor, sigma: Tensor) -> list[ActiveCond]:
    """The conds of one prompt list that act on x [B, C, *size] at this sigma, weighted as the host weights them.

    A sigma on the CPU spares a GPU from waiting for each timestep range. Default conds are among them also where the
    others leave nothing for them, so that the host does not call the model with them; their share is 0 then.
    """
    size = x.shape[2:]
    active: list[ActiveCond] = []
    defaults: list[ActiveCond] = []
    for cond in conds:
        described = get_area_and_mult(cond, x, sigma)
        if described is None:  # outside its timestep range
            continue
        lengths, starts = _halves(described.area or (*size, *[0] * len(size)))
        view = tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))
        share = widen(x).new_zeros((x.shape[0], 1, *size))
        share[(..., *view)] = described.mult[:, :1]
        item = ActiveCond(cond, view, share)
        (defaults if "default" in cond else active).append(item)
    if defaults:  # they fill what the others leave
        rest = (1 - sum((item.share for item in active), torch.zeros_like(defaults[0].share))).relu()
        active += [item._replace(share=rest) for item in defaults]
    total = sum(item.share for item in active)
    return [item._replace(share=item.share / total.clamp_min(1e-8)) for item in active]


def _halves(area: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """The host's areas: the lengths along all axes, then where they start."""
    return area[: len(area) // 2], area[len(area) // 2 :]


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


def guidance_direction(args: dict[str, Any], sigma: Tensor) -> Tensor | None:
    """cond - uncond [B, C, *size] of the arguments of a post-CFG function, zero where one of the prompts does not act.

    None where one of them is switched off by its timestep range. A sigma on the CPU spares a GPU from waiting.
    """
    x, prompts = args["input"], (args["cond"], args["uncond"])
    if any(all(get_area_and_mult(cond, x, sigma) is None for cond in conds) for conds in prompts):
        return None
    direction = args["cond_denoised"] - args["uncond_denoised"]
    for conds in prompts:
        where = covered(conds, x, sigma)
        if where is not None:
            direction = torch.where(where, direction, 0)
    return direction


def sides(size: Iterable[int]) -> str:
    """A size as messages write it: 64 x 96."""
    return " x ".join(map(str, size))
