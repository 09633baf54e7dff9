"""Show the attention of chosen layers to an observer, while the host computes its own, bit for bit.

Three observers, for the three ways in which models call attention; what they show has one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .families import Family
from .layouts import Grid, Layer, Place
from .override import OVERRIDE, Override
from .probabilities import Attention

JOINED = "semantic_guidance.joined"  # in a call's options: how many of its text tokens are joined behind the prompt's


class Call(NamedTuple):
    """One call of the model."""

    rows: int  # of the batch: [chunk i][image b], in the order of the uuids
    size: tuple[int, ...]  # of the latent without batch and channels
    text: int  # tokens of the prompt that is looked at, 0 without
    extra: dict[str, Any]  # what else the model gets beside latent, time and text
    ahead: int = 0  # tokens of other prompts in front of it
    behind: int = 0

    @property
    def tokens(self) -> int:
        """Of the text in all."""
        return self.ahead + self.text + self.behind

    @property
    def columns(self) -> slice:
        """Those of the prompt, among all tokens of the text."""
        return slice(self.ahead, self.ahead + self.text)

    @staticmethod
    def of(x: Tensor, text: Tensor | None, extra: dict[str, Any], transformer_options: dict[str, Any]) -> Call:
        """x: [rows, C, *size]; text: [rows, tokens, width] or None."""
        joined = transformer_options.get(JOINED, 0)
        return Call(len(x), tuple(x.shape[2:]), 0 if text is None else text.shape[1] - joined, extra, behind=joined)


class Observation(NamedTuple):
    """One transformer block in one forward. Rows of q and k are [chunk i][image b], in the order of the uuids."""

    layer: Layer
    grid: Grid  # of the layer's positions, frame by frame; 1 frame in pictures
    self_attention: Attention  # positions to positions, [rows, P, P]; between frames without LTX-Video's guide masks
    cross_attention: Attention  # positions to the call's text tokens, [rows, P, text]
    place: Place  # of the prompt among the keys, and of the picture among the queries, of the call that showed words


Observer = Callable[[Observation], None]
Key = tuple[tuple[str, int], int]  # a layer's block and depth


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
    another node replaces, or whose positions it merges or divides, is not. Chained in front of an override that is
    already there, which still sees every call.
    """
    watcher = watcher_of(family, call, layers, observer)
    options = transformer_options if family.keyed else watcher.counted(transformer_options)
    return {**options, OVERRIDE: Override.on(options).watched(watcher.see)}


class _Watcher:
    """What one forward has shown so far."""

    def __init__(self, family: Family, call: Call, layers: Iterable[Layer], observer: Observer, alone: bool):
        self.family = family
        self.call = call
        self.alone = alone
        self.waiting: dict[Key, Layer] = {(layer.block, layer.depth): layer for layer in layers}
        self.first = next(iter(self.waiting.values()), None)
        self.observer = observer
        self.self_attention: dict[Key, Attention] = {}
        self.count = 0  # blocks that have passed, where the host does not name them
        self.in_replaced = False

    def key(self, options: dict[str, Any]) -> Key | None:
        """The block that calls attention; None for what the model does outside of its blocks."""
        if not self.family.keyed:
            return ("block", self.count), 0
        index = options.get("block_index")
        return None if index is None else ((options.get("block_type", "block"), index), 0)

    def hand_over(self, key: Key, grid: Grid, own: Attention, cross: Attention, place: Place) -> None:
        self.observer(Observation(self.waiting.pop(key), grid, own, cross, place))

    def of_prompt(self, cross: Attention) -> Attention:
        """Attention to the prompt alone, where the text has others beside it."""
        return cross if self.call.text == self.call.tokens else cross.block(slice(None), self.call.columns)

    def passed(self) -> None:
        """A block has called attention as blocks do."""
        self.count += not self.in_replaced

    def counted(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options in which a block that another node has replaced counts as one, whatever it calls."""

        def counts_once(replacement: Callable) -> Callable:
            def replaced(*args, **kwargs):
                self.in_replaced = True
                try:
                    return replacement(*args, **kwargs)
                finally:
                    self.in_replaced = False
                    self.count += 1

            return replaced

        replaced = options.get("patches_replace", {})
        blocks = {key: counts_once(replacement) for key, replacement in replaced.get("dit", {}).items()}
        return {**options, "patches_replace": {**replaced, "dit": blocks}} if blocks else options


class _UNet(_Watcher):
    """A block calls self-attention first, then cross-attention. The options say which, and on what grid."""

    def see(self, options: dict[str, Any], attention: Attention) -> None:
        key = (options.get("block"), options.get("block_index"))
        if key not in self.waiting:
            return
        height, width = options["activations_shape"][-2:]
        latent, text = (self.call.rows, height * width), (self.call.rows, self.call.tokens)
        words = [(t.shape[0], t.shape[2]) for t in (attention.q, attention.k)] == [latent, text]
        own = self.self_attention.pop(key, None)
        if own is None and not (self.alone and words and latent != text):
            self.self_attention[key] = attention
            return
        own = attention if own is None else own
        divided = [(t.shape[0], t.shape[2]) for t in (own.q, own.k)] != [latent, latent]
        if words and (self.alone or not divided) and self.is_whole(height, width):
            place = Place(self.call.columns, slice(0, height * width))
            self.hand_over(key, (1, height, width), own, self.of_prompt(attention), place)

    def is_whole(self, height: int, width: int) -> bool:
        """Whether a grid has the latent's shape, up to rounding; not where a picture is divided among devices."""
        rows, columns = self.call.size
        return abs(height * columns - width * rows) < 2 * max(rows, columns)


class _Cross(_Watcher):
    """A block calls self-attention first, then cross-attention to the text; others (pictures, sound) may lie between.

    A block may be followed by a helper of the same name (VACE); the first pair is its own. Self-attention may come in
    several calls, each with a part of the queries and a mask (LTX-Video's guides).
    """

    def see(self, options: dict[str, Any], attention: Attention) -> None:
        key = self.key(options)
        if key is None or self.first is None or (self.family.keyed and key not in self.waiting):
            return
        queries, keys = attention.q.shape[2], attention.k.shape[2]
        own = self.self_attention.get(key)
        if own is None or own.q.shape[2] < own.k.shape[2] == keys:
            self.self_attention[key] = attention if own is None else _joined(own, attention)
        elif keys == self.call.tokens:
            del self.self_attention[key]
            self.passed()
            if key not in self.waiting or own.q.shape[2] != queries:
                return
            place = self.family.sequence.place(self.call, self.first, queries)
            if place is not None and own.k.shape[2] == queries and len(own.q) == len(attention.q) == self.call.rows:
                picture = own.block(place.image, place.image)
                words = self.of_prompt(attention.block(place.image, slice(None)))
                place = Place(self.call.columns, place.image)
                self.hand_over(key, self.first.grid(self.call.size), picture, words, place)


def _joined(first: Attention, second: Attention) -> Attention:
    """Self-attention whose queries came in two calls.

    Without the calls' masks: they weigh frames against each other, and nothing changes within a frame.
    """
    return Attention(torch.cat([first.q, second.q], dim=2), first.k, None, first.scale)


class _Joint(_Watcher):
    """Text and picture attend to each other in one call. Others, of the text or the picture alone, may lie between."""

    def see(self, options: dict[str, Any], attention: Attention) -> None:
        key = self.key(options)
        if key is None or self.first is None:
            return
        length = attention.k.shape[2]
        place = self.family.sequence.place(self.call, self.first, length)
        if place is None or attention.q.shape[2] != length or len(attention.q) != self.call.rows:
            return
        self.passed()
        if key in self.waiting:
            picture, words = (attention.block(place.image, keys) for keys in (place.image, place.text))
            self.hand_over(key, self.first.grid(self.call.size), picture, words, place)


_WATCHERS: dict[str, type[_UNet | _Cross | _Joint]] = {"unet": _UNet, "cross": _Cross, "joint": _Joint}


def watcher_of(
    family: Family, call: Call, layers: Iterable[Layer], observer: Observer, alone: bool = False
) -> _UNet | _Cross | _Joint:
    """alone: the observer wants attention to words only, also where a UNet's own is replaced, merged or divided."""
    return _WATCHERS[family.kind](family, call, layers, observer, alone)
