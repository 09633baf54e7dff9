"""Bind phrases: what a prompt with bound phrases carries, and the hook by which the model comes to use it.

The model attends to the keys of the whole prompt as ever, and takes values in which each phrase counts by itself too.
The conditioning has them beside the prompt, and one of the host's hooks, which puts an attn2 patch on the model as long
as a run with such a prompt lasts. Only UNets call such patches.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from comfy.hooks import HookGroup, TransformerOptionsHook, set_hooks_for_conditioning
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..attention_hooks.families import CLIP_CHUNK, model_family
from ..attention_hooks.observe import JOINED
from ..guidance.structure import mean_values
from ..words.phrases import check_phrases, phrase_columns
from ..words.prompt import BOUND_KEY, CONDITIONING_KEY
from .conds import give_copies_own_uuids
from .run import PREFIX

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider
    from comfy.sd import CLIP

log = logging.getLogger(__name__)
NODE = "Prompt with Words"
WAY_OUT = "Leave bind_phrases empty for this model."


class Bound(NamedTuple):
    """Both [1, N, C]."""

    text: Tensor  # as encoded, of which the keys are made
    values: Tensor  # of which the values are made


def bind_phrases(conditioning: list, clip: CLIP, tokens: dict[str, list], phrases: Sequence[str]) -> list:
    """A conditioning that `clip` made of `tokens`, and whose words are known, with these phrases bound.

    Raises ValueError for phrases that the prompt lacks, and for other text encoders than CLIP.
    """
    check_phrases(conditioning, list(phrases), NODE)
    if any(len(chunk) != CLIP_CHUNK for chunks in tokens.values() for chunk in chunks):
        raise ValueError(f"{NODE}: phrases are bound with the text encoders of Stable Diffusion 1 and 2 and SDXL only. "
                         f"{WAY_OUT}")
    text, extra = conditioning[0]
    columns = [phrase_columns(extra.get(CONDITIONING_KEY), text.shape[1], phrase) for phrase in phrases]
    alone = [clip.encode_from_tokens_scheduled(_alone(clip, tokens, phrase)) for phrase in columns]
    entries = []
    for index, (text, extra) in enumerate(conditioning):
        own = [encoded[index][0][:, 1 : 1 + len(phrase)] for encoded, phrase in zip(alone, columns, strict=True)]
        values = mean_values(text, zip(columns, own, strict=True))
        entries.append([text, {**extra, BOUND_KEY: Bound(text, values)}])
    hooks = HookGroup()
    hooks.add(HOOK)
    return set_hooks_for_conditioning(entries, hooks)


def _alone(clip: CLIP, tokens: dict[str, list], columns: Sequence[int]) -> dict[str, list]:
    """The tokens of a phrase by itself, with the weights that they have in the prompt."""
    empty = clip.tokenize("")
    if len(columns) > CLIP_CHUNK - 2:
        raise ValueError(f"{NODE}: a phrase has {len(columns)} tokens, and {CLIP_CHUNK - 2} fit. Bind shorter ones.")
    alone = {}
    for name, chunks in tokens.items():
        start, *rest = empty[name][0]
        phrase = [chunks[column // CLIP_CHUNK][column % CLIP_CHUNK] for column in columns]
        alone[name] = [[start, *phrase, *rest][:CLIP_CHUNK]]
    return alone


def _sampler_sample(executor, guider: CFGGuider, sigmas: Tensor, extra_args: dict[str, Any], *args, **kwargs):
    give_copies_own_uuids(guider)
    values = bound_values(guider)
    if values and model_family(guider.model_patcher, NODE).kind != "unet":
        raise ValueError(f"{NODE}: {type(guider.model_patcher.model).__name__} does not tell keys from values, so no "
                         f"phrase can be bound. {WAY_OUT}")

    def attn2_patch(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> tuple:
        uuids = options.get("uuids", [])
        if values.keys().isdisjoint(uuids):
            return n, context, value
        chunks = zip(uuids, value.chunk(len(uuids)), strict=True)
        joined = options.get(JOINED, 0)
        laid_out = [_laid_out(values[uuid], own, joined) if uuid in values else own for uuid, own in chunks]
        return n, context, torch.cat(laid_out)

    options = extra_args["model_options"]
    transformer_options = options["transformer_options"]
    patches = transformer_options.get("patches", {})
    patches = {**patches, "attn2_patch": [attn2_patch, *patches.get("attn2_patch", [])]}  # the first sees the prompts
    options = {**options, "transformer_options": {**transformer_options, "patches": patches}}
    return executor(guider, sigmas, {**extra_args, "model_options": options}, *args, **kwargs)


HOOK = TransformerOptionsHook({"wrappers": {WrappersMP.SAMPLER_SAMPLE: {PREFIX: [_sampler_sample]}}})


def bound_values(guider: CFGGuider) -> dict[Any, Tensor]:
    """The values [1, N, C] of the processed conds with bound phrases, by uuid, on the model's device.

    The conds lose a hook that is ours alone: it has done its work, and conds with it would be called for apart.
    """
    values = {}
    for cond in (cond for conds in guider.conds.values() for cond in conds):
        if all(hook == HOOK for hook in getattr(cond.get("hooks"), "hooks", [])):
            cond.pop("hooks", None)
        bound = cond.get(BOUND_KEY)
        if bound is None:
            continue
        text = cond["model_conds"]["c_crossattn"].cond
        length = bound.text.shape[1]
        if not torch.equal(text[:, :length], bound.text.to(text)):
            log.warning("%s: another node changed the prompt after its phrases were bound, so none is.", NODE)
            continue
        added = text[:, length:]  # by ConditioningConcat
        values[cond["uuid"]] = torch.cat([bound.values.to(text), added], dim=1).to(guider.model_patcher.load_device)
    return values


def _laid_out(values: Tensor, like: Tensor, joined: int) -> Tensor:
    """values [1, N, C] as the host lays out the prompt that they belong to: [B, repeats * N + joined, C].

    joined: tokens of other prompts behind it, which keep their values.
    """
    own = like.shape[1] - joined
    repeated = values.to(like).repeat(len(like), own // values.shape[1], 1)
    return torch.cat([repeated, like[:, own:]], dim=1) if joined else repeated
