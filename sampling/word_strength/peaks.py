"""How strongly each word is attended to, read where Attend-and-Excite reads it: cross-attention of few positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...attention_hooks.families import Family, layers_near
from ...attention_hooks.layouts import Layer
from ...attention_hooks.observe import Call, Observation, watch
from ...attention_hooks.probabilities import phrase_probabilities
from ...guidance.smoothing import smooth
from .attention import Columns


class Peaks:
    """Of one evaluation; the last call of the model that has a prompt tells."""

    def __init__(self, node: str, family: Family, layers: list[Layer]):
        self._node, self._family, self._layers = node, family, layers
        self._chosen: dict[tuple[int, int], list[Layer]] = {}  # by the height and width of what the model is shown
        self._read: list[Tensor] = []  # of each layer

    def take(self) -> Tensor | None:
        """[B, words, (T,) h, w], the mean over layers and heads of the probability of each word, of the tokens of its
        prompt; None where nothing was read since the last time.
        """
        read, self._read = self._read, []
        return torch.stack(read).mean(dim=0) if read else None

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
        height, width = call.size[-2:]
        if (height, width) not in self._chosen:
            near = layers_near(self._family, self._layers, None, (height, width), self._node)
            self._chosen[height, width] = near[1]
        read: list[Tensor] = []

        def observer(seen: Observation) -> None:
            own = seen.cross_attention.select(slice(chunk * images, (chunk + 1) * images))
            maps = phrase_probabilities(own, length, columns).transpose(1, 2)
            read.append(maps.unflatten(2, seen.grid[1:] if len(call.size) == 2 else seen.grid))
            self._read = read

        return watch(transformer_options, self._family, call, self._chosen[height, width], observer)


def highest(maps: Tensor) -> Tensor:
    """[B, words, (T,) h, w] -> [B, words], of the smoothed maps."""
    return smooth(maps).flatten(2).amax(dim=-1)
