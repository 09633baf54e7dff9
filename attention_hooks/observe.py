"""Show the attention of chosen layers to an observer, while the host computes its own, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor

from .families import Layer
from .probabilities import Attention

OVERRIDE = "optimized_attention_override"


class Call(NamedTuple):
    """One call of the model."""

    rows: int  # of the batch: [chunk i][image b], in the order of the uuids
    size: tuple[int, ...]  # of the latent without batch and channels
    text: int  # tokens of its conditioning, 0 without
    extra: dict[str, Any]  # what else the model gets beside latent, time and text

    @staticmethod
    def of(x: Tensor, text: Tensor | None, extra: dict[str, Any]) -> Call:
        """x: [rows, C, *size]; text: [rows, tokens, width] or None."""
        return Call(x.shape[0], tuple(x.shape[2:]), 0 if text is None else text.shape[1], extra)


class Observation(NamedTuple):
    """One transformer block in one forward. Rows of q and k are [chunk i][image b], in the order of the uuids."""

    layer: Layer
    grid: tuple[int, int]  # height and width of the layer's positions
    self_attention: Attention
    cross_attention: Attention


def _is_replaced(transformer_options: dict[str, Any], layer: Layer) -> bool:
    """Whether another node computes this block's attention itself, so that it cannot be seen."""
    replaced = transformer_options.get("patches_replace", {})
    return any(
        key in replaced.get(attention, {})
        for attention in ("attn1", "attn2")
        for key in (layer.block, (*layer.block, layer.depth))
    )


def visible_layers(transformer_options: dict[str, Any], layers: Iterable[Layer]) -> list[Layer]:
    """The layers whose attention is computed by the host."""
    return [layer for layer in layers if not _is_replaced(transformer_options, layer)]


def watch(
    transformer_options: dict[str, Any], layers: Iterable[Layer], observer: Callable[[Observation], None]
) -> dict[str, Any]:
    """A copy of one forward's transformer_options in which `observer` sees each of the visible `layers` once.

    Chained in front of an override that is already there, which still sees every call.
    """
    wanted = {(layer.block, layer.depth): layer for layer in layers}
    seen_self: dict[Layer, Attention] = {}
    previous = transformer_options.get(OVERRIDE)

    def override(func, q, k, v, heads, *args, transformer_options, **kwargs):
        layer = wanted.get((transformer_options.get("block"), transformer_options.get("block_index")))
        if layer is not None:
            attention = Attention(q, k, heads)
            if layer in seen_self:  # a block calls self-attention first, then cross-attention
                grid = tuple(transformer_options["activations_shape"][-2:])
                observer(Observation(layer, grid, seen_self.pop(layer), attention))
            else:
                seen_self[layer] = attention
        kwargs["transformer_options"] = transformer_options
        if previous is not None:
            return previous(func, q, k, v, heads, *args, **kwargs)
        return func(q, k, v, heads, *args, **kwargs)

    return {**transformer_options, OVERRIDE: override}
