"""Show the attention of chosen layers to an observer, while the host computes its own, bit for bit.

Three observers, for the three ways in which models call attention; what they show has one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor

from .families import Family, Grid, Layer
from .probabilities import Attention, attention_of

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
    grid: Grid  # of the layer's positions, frame by frame; 1 frame in pictures
    self_attention: Attention  # positions to positions, [rows, P, P]
    cross_attention: Attention  # positions to the call's text tokens, [rows, P, text]


Observer = Callable[[Observation], None]
See = Callable[[dict[str, Any], Attention], None]  # the options and the attention of one call


def visible_layers(transformer_options: dict[str, Any], layers: Iterable[Layer]) -> list[Layer]:
    """The layers of a UNet whose attention is computed by the host, not by another node in its place."""
    replaced = transformer_options.get("patches_replace", {})
    return [
        layer for layer in layers
        if not any(
            key in replaced.get(attention, {})
            for attention in ("attn1", "attn2")
            for key in (layer.block, (*layer.block, layer.depth))
        )
    ]


def watch(
    transformer_options: dict[str, Any], family: Family, call: Call, layers: Iterable[Layer], observer: Observer
) -> dict[str, Any]:
    """A copy of one forward's transformer_options in which `observer` sees each of the `layers` at most once.

    A layer is seen if its queries and keys are as many as the latent's positions and the text's tokens make; one that
    another node replaces, or whose positions it merges, is not. Chained in front of an override that is already
    there, which still sees every call.
    """
    wanted = {(layer.block, layer.depth): layer for layer in layers}
    see = _UNet(call, wanted, observer).see
    previous = transformer_options.get(OVERRIDE)

    def override(func, q, k, v, heads, *args, transformer_options, **kwargs):
        see(transformer_options, attention_of(q, k, heads, args, kwargs))
        kwargs["transformer_options"] = transformer_options
        if previous is not None:
            return previous(func, q, k, v, heads, *args, **kwargs)
        return func(q, k, v, heads, *args, **kwargs)

    return {**transformer_options, OVERRIDE: override}


class _UNet:
    """A block calls self-attention first, then cross-attention. The options say which, and on what grid."""

    def __init__(self, call: Call, wanted: dict[tuple[tuple[str, int], int], Layer], observer: Observer):
        self.call = call
        self.wanted = wanted
        self.observer = observer
        self.self_attention: dict[Layer, Attention] = {}

    def see(self, options: dict[str, Any], attention: Attention) -> None:
        layer = self.wanted.get((options.get("block"), options.get("block_index")))
        if layer is None:
            return
        own = self.self_attention.pop(layer, None)
        if own is None:
            self.self_attention[layer] = attention
            return
        height, width = options["activations_shape"][-2:]
        latent, text = (self.call.rows, height * width), (self.call.rows, self.call.text)
        shapes = [(t.shape[0], t.shape[2]) for t in (own.q, own.k, attention.q, attention.k)]
        if shapes == [latent, latent, latent, text]:
            self.observer(Observation(layer, (1, height, width), own, attention))
