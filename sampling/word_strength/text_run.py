"""The text of a run with other words weaker at each moment, where a conditioning cannot say it once for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..joined import MASK, with_text_behind
from ..processing import Processing
from .settings import NODE
from .text import TextChange

TEXT = "c_crossattn"  # the name of a model's text among what it is called with


def differences(processing: Processing, cond: dict[str, Any], change: TextChange) -> dict[str, Tensor]:
    """What becomes of each tensor that the model is called with when the words are taken out: without - whole.

    Raises ValueError for a model that makes its text of token numbers itself.
    """
    whole, without = (
        processing.tensors({**cond, **text.extra, "cross_attn": text.columns, "model_conds": {}})
        for text in (change.whole, change.without)
    )
    found = {
        name: (without[name] - value).to(processing.noise.device)
        for name, value in whole.items()
        if name in without and value.is_floating_point() and value.shape == without[name].shape
        and not torch.equal(value, without[name])
    }
    if TEXT not in found and change.read_as_numbers():
        name = type(processing.guider.inner_model).__name__
        raise ValueError(
            f"{NODE}: {name} makes its text of the numbers of tokens, so a word is there or not. Set strength to 0 at "
            "all times, or to 1."
        )
    return found


def without_words(
    values: Tensor, rows: slice, difference: Tensor, share: float, kept: Sequence[int] = ()
) -> Tensor:
    """values [rows, ...] in which this share of the words is gone from some rows; a text may be repeated.

    kept: columns of a text that stay as they are.
    """
    changed = values.clone()
    part = difference.to(values)
    if kept:
        part = part.clone()
        for column in kept:
            part[:, column] = 0
    if part.ndim == 3 and part.shape[1] != values.shape[1]:
        part = part.repeat(1, values.shape[1] // part.shape[1], 1)
    changed[rows] += share * part
    return changed


def with_words_behind(
    text: Tensor, whole: Tensor, rows: Sequence[slice], extra: dict[str, Any], options: dict[str, Any]
) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
    """[rows, 2 N, width]: behind the text, that of these rows with all its words; zeros behind the others.

    Returns it, what else the model gets, and the options that say so.
    """
    behind = torch.zeros_like(text)
    for some in rows:
        behind[some] = whole[some]
    text, options = with_text_behind(text, behind, options)
    mask = extra.get(MASK)
    if mask is not None:
        extra = {**extra, MASK: torch.cat([mask, mask], dim=-1)}
    return text, extra, options
