"""SEGA's concepts in the host: their prompts go through the same machinery as the positive and the negative one."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from comfy.hooks import EnumHookMode, EnumWeightTarget, HookGroup, create_target_dict
from comfy.model_patcher import create_hook_patches_clone
from comfy.sampler_helpers import get_hooks_from_cond, prepare_mask
from comfy.samplers import (
    create_cond_with_same_area_if_none,
    filter_registered_hooks_on_conds,
    preprocess_conds_hooks,
)
from torch import Tensor

from ...guidance.sega import Edit
from ...words.prompt import CONDITIONING_KEY
from ..processing import Processing

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider

Cond = dict[str, Any]
Unit = Literal["percent", "steps"]
UNITS: tuple[Unit, ...] = ("percent", "steps")

# What the negative prompt has besides its text; a concept that brings none of its own takes it over, because edits are
# differences to the negative prompt's prediction and only the text shall differ.
SHARED = ("control", "hooks", "concat_latent_image", "concat_mask")


@dataclass(frozen=True)
class Concept:
    """One edit as a user describes it. The warm-up and cooldown of `edit` are filled in when sampling starts."""

    conditioning: list
    edit: Edit = field(default_factory=Edit)
    warmup: float = 20.0
    cooldown: float = 0.0  # 0: never
    unit: Unit = "percent"  # of the noise schedule, as in the host's own percent ranges, or sampler steps
    mask: Tensor | None = None  # [N, H, W], of any size
    confine_to: tuple[str, ...] = ()  # words of the concept's prompt

    def edit_for(self, model_sampling: Any, sigmas: Tensor) -> Edit:
        """The edit for a run with this schedule of sigmas."""
        if self.unit == "steps":
            warmup, cooldown = round(self.warmup), round(self.cooldown)
        else:
            steps = sigmas[:-1].float().cpu()
            start, end = (
                torch.tensor(model_sampling.percent_to_sigma(percent / 100), dtype=torch.float32)
                for percent in (self.warmup, self.cooldown)
            )
            warmup, cooldown = int((steps > start).sum()), int((steps >= end).sum())
        return replace(self.edit, warmup=warmup, cooldown=cooldown if self.cooldown > 0 else None)

    def mask_for(self, shape: Sequence[int], device: torch.device, node: str) -> Tensor | None:
        """The mask for a latent of this shape, [B, 1, *size]: one for each image, or in a video for each frame."""
        if self.mask is None:
            return None
        if len(shape) < 4:
            raise ValueError(f"{node}: a concept has a mask, but this model's latent has no height and width.")
        return prepare_mask(self.mask, (shape[0], 1, *shape[2:]), device)


class Prompt(NamedTuple):
    """A concept's processed conds, and those of the negative prompt on the same areas, which it is compared with."""

    conds: list[Cond]
    negative: list[Cond]


def register_hooks(guider: CFGGuider, prompts: list[list[Cond]]) -> None:
    """Do for the hooks of more prompts what CFGGuider.sample has done for its own; it takes them back at the end."""
    patcher, options = guider.model_patcher, guider.model_options
    conds = {str(number): prompt for number, prompt in enumerate(prompts)}
    preprocess_conds_hooks(conds)
    hooks = HookGroup()
    for prompt in prompts:
        get_hooks_from_cond(prompt, hooks)
    registered = options.get("registered_hooks", HookGroup())
    new = [hook for hook in hooks.hooks if hook not in registered.hooks]
    if new:
        options["registered_hooks"] = registered
        if patcher.hook_patches_backup is None:
            patcher.hook_patches_backup = create_hook_patches_clone(patcher.hook_patches)
        patcher.hook_mode = EnumHookMode.MaxSpeed  # keeps the weights of each hook while sampling alternates
        target = create_target_dict(EnumWeightTarget.Model)
        for hook in new:
            hook.add_hook_patches(patcher, options, target, registered)
    filter_registered_hooks_on_conds(conds, options)


def process_prompt(processing: Processing, conds: list[Cond]) -> Prompt:
    """A concept's conds as the host processes them; those of the guider are processed already."""
    negative = processing.guider.conds["negative"]
    shared: Cond = next((cond for cond in negative if "area" not in cond and "mask" not in cond), {})
    shared = {key: shared[key] for key in SHARED if key in shared}
    conds = _with_areas_of(processing.conds([{**shared, **cond} for cond in conds]), negative)
    return Prompt(conds, _with_areas_of(negative, conds))


def _with_areas_of(conds: list[Cond], others: list[Cond]) -> list[Cond]:
    """Add an evaluation for each area that only `others` have, as the host does for positive and negative.

    Returns `conds` itself where there is nothing to add.
    """
    extended = list(conds)
    for other in others:
        create_cond_with_same_area_if_none(extended, other)
    added = []
    for cond in extended[len(conds) :]:  # a copy of the other's cond with the text of one of ours
        text = cond["model_conds"].get("c_crossattn")
        own = next(own for own in conds if own["model_conds"].get("c_crossattn") is text)
        added.append({**cond, "uuid": uuid.uuid4(), CONDITIONING_KEY: own.get(CONDITIONING_KEY)})
    return [*conds, *added] if added else conds
