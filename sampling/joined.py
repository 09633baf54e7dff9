"""More text behind that with which a model is called."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attention_hooks.observe import JOINED

MASK = "attention_mask"  # what models get beside the text: which of its tokens are padding


def with_text_behind(
    text: Tensor, behind: Tensor, transformer_options: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """[rows, tokens, width] of both, and the options that say so.

    What other nodes put in the place of a UNet's cross-attention sees the text alone.
    """
    options = {**transformer_options, JOINED: behind.shape[1]}
    replaced = options.get("patches_replace", {})
    if replaced.get("attn2"):
        blocks = {key: _seeing(text.shape[1], replacement) for key, replacement in replaced["attn2"].items()}
        options["patches_replace"] = {**replaced, "attn2": blocks}
    return torch.cat([text, behind], dim=1), options


def _seeing(length: int, replacement: Any) -> Any:
    def replaced(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        return replacement(q, k[:, :length], v[:, :length], extra_options)

    return replaced
