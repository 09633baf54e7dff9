"""How strongly each word is attended to, read in one layer so that it costs next to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...attention_hooks.families import Family, layers_at
from ...attention_hooks.layouts import Layer
from ...attention_hooks.observe import Call, Observation, watch
from ...attention_hooks.probabilities import phrase_probabilities
from ...guidance.smoothing import smooth
from .attention import Columns


class Peaks:
    """Of one evaluation; the last call of the model that has a prompt tells.

    maps: [B, words, (T,) h, w], the mean over heads of the probability of each word, of the tokens of its prompt; None
    where none was read.
    """

    def __init__(self, node: str, family: Family, layers: list[Layer]):
        chosen = layers_at(family, layers, None, node)[1]
        self._family = family
        self._layers = [chosen[len(chosen) // 2]]
        self.maps: Tensor | None = None

    def watch_forward(
        self, call: Call, transformer_options: dict[str, Any], prompts: Mapping[Any, tuple[int, Columns]]
    ) -> dict[str, Any]:
        """prompts: the length and the columns of each, by uuid."""
        uuids = transformer_options["uuids"]
        chunk = next((number for number, uuid in enumerate(uuids) if uuid in prompts), None)
        if chunk is None:
            return transformer_options
        length, columns = prompts[uuids[chunk]]
        images = call.rows // len(uuids)

        def observer(seen: Observation) -> None:
            own = seen.cross_attention.select(slice(chunk * images, (chunk + 1) * images))
            maps = phrase_probabilities(own, length, columns).transpose(1, 2)
            frames, height, width = seen.grid
            self.maps = maps.unflatten(2, (height, width) if len(call.size) == 2 else (frames, height, width))

        return watch(transformer_options, self._family, call, self._layers, observer)


def highest(maps: Tensor) -> Tensor:
    """[B, words, (T,) h, w] -> [B, words], of the smoothed maps."""
    return smooth(maps).flatten(2).amax(dim=-1)
