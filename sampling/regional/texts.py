"""The prompts of regions as the model takes them in, joined behind a cond's own text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from comfy.sampler_helpers import convert_cond
from comfy.utils import repeat_to_batch_size
from torch import Tensor

from ...attention_hooks.families import Family
from ..conds import text_length
from ..joined import MASK, with_text_behind
from ..processing import Processing
from ..prompt_text import prompt_text, word_columns
from .region import NODE, Region

Cond = dict[str, Any]
UNUSED = {  # of a region's conditioning: what it says besides its text
    "area": "an area", "mask": "a mask", "control": "a ControlNet", "gligen": "GLIGEN", "start_percent": "a time range",
    "end_percent": "a time range", "hooks": "hooks", "reference_latents": "reference images",
}
COUNT = "num_tokens"  # what some models get beside the text: how many of its tokens are no padding


class Columns(NamedTuple):
    """Of one region, counted from the first of all that are joined."""

    prompt: range
    words: tuple[int, ...]  # among the prompt's
    negative: range


class Texts(NamedTuple):
    """The prompts of all regions, one after the other."""

    text: Tensor  # [B or 1, tokens, width]
    columns: tuple[Columns, ...]  # by region

    @property
    def length(self) -> int:
        return self.text.shape[1]

    @property
    def starts(self) -> tuple[int, ...]:
        """The first column of each prompt, negative ones too."""
        every = [kind for columns in self.columns for kind in (columns.prompt, columns.negative)]
        return tuple(kind.start for kind in every if kind)


def join(regions: Sequence[Region], family: Family, processing: Processing) -> Texts:
    """ValueError, naming the region, for a conditioning without text, or of another text encoder than the others'."""
    parts: list[Tensor] = []
    columns: list[Columns] = []
    start = 0
    for number, region in enumerate(regions, start=1):
        cond = _processed(processing, region.conditioning)
        own = _read(cond, f"the prompt of region {number}")
        text = prompt_text(cond, family)
        kept = [place for place, is_text in enumerate(own.kept) if is_text]
        words = tuple(kept.index(column) for column in word_columns(cond, text) if column in kept)
        parts.append(own.text[:, kept])
        prompt = range(start, start + len(kept))
        negative = range(prompt.stop, prompt.stop)
        if region.negative is not None and region.negative_strength:
            cond = _processed(processing, region.negative)
            own = _read(cond, f"the negative prompt of region {number}")
            found = word_columns(cond, prompt_text(cond, family))
            parts.append(own.text[:, list(found)])
            negative = range(prompt.stop, prompt.stop + len(found))
        columns.append(Columns(prompt, words, negative))
        start = negative.stop
    widths = sorted({part.shape[-1] for part in parts})
    if len(widths) > 1:
        raise ValueError(
            f"{NODE}: the regions' prompts have {' and '.join(map(str, widths))} features a token. Encode all of them "
            "with the text encoder of this model."
        )
    batch = max(len(part) for part in parts)
    return Texts(torch.cat([repeat_to_batch_size(part, batch) for part in parts], dim=1), tuple(columns))


def _processed(processing: Processing, conditioning: list) -> Cond:
    """The only entry of a conditioning, as the model takes it in; its text alone, without what it says beside."""
    (cond,) = convert_cond(conditioning)
    (cond,) = processing.conds([{key: value for key, value in cond.items() if key not in UNUSED}])
    return cond


class _Own(NamedTuple):
    text: Tensor  # [B or 1, tokens, width]
    kept: list[bool]  # which of them are no padding


def _read(cond: Cond, name: str) -> _Own:
    if not text_length(cond):
        raise ValueError(f"{NODE}: {name} has no text. Write one, or leave that region out.")
    text = cond["model_conds"]["c_crossattn"].cond
    mask = cond["model_conds"].get(MASK)
    if mask is None:
        return _Own(text, [True] * text.shape[1])
    _check_mask(mask.cond, text.shape[1], name)
    kept = mask.cond.ne(0).any(dim=0).tolist()
    if not any(kept):
        raise ValueError(f"{NODE}: {name} has no text. Write one, or leave that region out.")
    return _Own(text, kept)


def _check_mask(mask: Tensor, tokens: int, name: str) -> None:
    if mask.ndim != 2 or mask.shape[-1] != tokens:
        raise ValueError(
            f"{NODE}: {name} has an attention mask of another node, such as Apply Style Model's. Leave that node out."
        )


def check_base(cond: Cond, texts: Texts) -> None:
    """Raise ValueError where the regions' prompts cannot be joined to this cond's own."""
    conds, name = cond["model_conds"], "the conditioning"
    if not text_length(cond):
        raise ValueError(f"{NODE}: {name} has no text, to which those of the regions could be joined.")
    own = conds["c_crossattn"].cond
    if own.shape[-1] != texts.text.shape[-1]:
        raise ValueError(
            f"{NODE}: {name} has {own.shape[-1]} features a token, and the regions' prompts have "
            f"{texts.text.shape[-1]}. Encode all of them with the text encoder of this model."
        )
    if MASK in conds:
        _check_mask(conds[MASK].cond, own.shape[1], name)
    if COUNT in conds and conds[COUNT].cond != own.shape[1]:
        raise ValueError(
            f"{NODE}: {name} is padded, which this model does not take beside the prompts of regions. Encode it alone, "
            "not in a batch."
        )


def joined(
    texts: Texts, chunks: Sequence[bool], text: Tensor, extra: dict[str, Any], transformer_options: dict[str, Any]
) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
    """One model call with the prompts behind the text of the chunks that are theirs, and nothing behind the others'.

    text: [chunks * B, tokens, width]; extra: what else the model gets. Returns both, and the options.
    """
    images = len(text) // len(chunks)
    behind = text.new_zeros((len(text), texts.length, text.shape[-1]))
    for chunk, is_theirs in enumerate(chunks):
        if is_theirs:
            behind[chunk * images : (chunk + 1) * images] = repeat_to_batch_size(texts.text.to(text), images)
    mask = extra.get(MASK)
    if mask is not None:
        extra = {**extra, MASK: torch.cat([mask, mask.new_ones((len(mask), texts.length))], dim=1)}
    if COUNT in extra:
        extra = {**extra, COUNT: extra[COUNT] + texts.length}
    text, options = with_text_behind(text, behind, transformer_options)
    return text, extra, options
