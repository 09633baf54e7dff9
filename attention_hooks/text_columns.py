"""Where the columns of a conditioning are among the text tokens that the model attends to."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from .families import Family

CLIP_FEATURES = 2048  # that SD3's two CLIP encoders fill; T5 fills all 4096


class TextColumns(NamedTuple):
    """Of one processed cond. The text token of column c of its conditioning is first + c.

    Where the family has token_ids, c counts these (PromptWords.token_ids), and the conditioning's own columns are not
    seen.
    """

    length: int  # text tokens that the cond gives to the model, before the host repeats them
    first: int
    read: slice  # the tokens to compare: not SD3's T5, where CLIP says the same words


def text_columns(family: Family, cond: dict[str, Any]) -> TextColumns | None:
    """None for a cond without text. cond: processed, as guider.conds has them while sampling."""
    text = cond.get("model_conds", {}).get("c_crossattn")
    if text is None:
        return None
    length = text.cond.shape[1]
    given = cond.get("cross_attn")
    first = length - given.shape[1] if family.padded_in_front and given is not None else 0
    clip = _clip_tokens(text.cond if given is None else given, family.chunk) if family.clip_first else 0
    return TextColumns(length, first, slice(0, clip or length))


def _clip_tokens(text: Tensor, chunk: int) -> int:
    """How many of the first tokens of SD3's text [1, n, features] CLIP made, in chunks; 0 where it was not loaded."""
    is_clip = (text[0, ::chunk, CLIP_FEATURES:] == 0).all(dim=-1) & (text[0, ::chunk] != 0).any(dim=-1)  # [chunks]
    chunks = int(is_clip.int().cumprod(0).sum())
    return chunk * chunks if chunk * chunks <= text.shape[1] else 0
