"""Where the model sees each subject: attention to its words, as it is without the edits of any node."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ...attention_hooks.families import NEAREST, Family, layers_near
from ...attention_hooks.layouts import Layer
from ...attention_hooks.observe import Call, Observation, watch
from ...attention_hooks.probabilities import phrase_probabilities
from ...guidance.attention_maps import in_cells
from ...guidance.ownership import remembered
from ..conds import sides
from .settings import NODE


class SubjectText(NamedTuple):
    """The subjects in the text of one cond."""

    length: int  # tokens, before the host repeats them
    compared: int  # the first so many, among which attention is compared
    columns: tuple[tuple[int, ...], ...]  # of each subject; () where the prompt lacks it

    @property
    def read(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(column for column in own if column < self.compared) for own in self.columns)


class SubjectMaps:
    """Gathered during an evaluation, and remembered from one step to the next.

    A map [B, S, (T,) h, w] is the probability of each subject's words, the mean over heads and layers.
    """

    def __init__(self, family: Family, layers: list[Layer], downsample: int | None, memory: float):
        self._family = family
        self._layers = layers
        self._downsample = downsample
        self._memory = memory
        self._size: tuple[int, int] | None = None
        self._sums: dict[Any, tuple[Tensor, int]] = {}  # by the uuid of the cond: of how many layers
        self._step = -1
        self.running: dict[Any, Tensor] = {}
        self.begin({}, {}, 0, (1, 1))

    def begin(
        self, texts: dict[Any, SubjectText], sizes: dict[Any, tuple[int, ...]], batch: int, latent: tuple[int, ...]
    ) -> None:
        """Gather anew for these conds, which act on parts of these sizes."""
        self._texts = texts
        self._sizes = sizes
        self._batch = batch
        self._sums = {}
        self._closed: set[Any] = set()
        height, width = latent[-2:]
        if (height, width) != self._size:
            self._size = height, width
            _, self._chosen = layers_near(self._family, self._layers, self._downsample, self._size, NODE)

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        uuids = transformer_options.get("uuids", [])
        chunks = [
            (chunk, uuid) for chunk, uuid in enumerate(uuids)
            if uuid in self._texts and uuid in self._sizes and uuid not in self._closed
        ]
        if not chunks:
            return transformer_options
        images = call.rows // len(uuids)
        for _, uuid in chunks:
            self._check(call.size, images, self._sizes[uuid])

        def observer(seen: Observation) -> None:
            for chunk, uuid in chunks:
                found = self._read(seen, slice(chunk * images, (chunk + 1) * images), self._texts[uuid], call.size)
                total, layers = self._sums.get(uuid, (0.0, 0))
                self._sums[uuid] = total + found, layers + 1

        return watch(transformer_options, self._family, call, self._chosen, observer)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        """Later calls in this evaluation for the same conds are other nodes' extra passes."""
        self._closed |= set(transformer_options.get("uuids", []))

    def seen(self, uuid: Any) -> tuple[int, Tensor | None]:
        """How many layers of this evaluation have been read, and their mean."""
        total, layers = self._sums.get(uuid, (None, 0))
        return layers, None if total is None else total / layers

    def learn(self, step: int) -> dict[Any, Tensor]:
        """Remember what this evaluation saw, the first of each step that saw something; returns that, by uuid."""
        seen = {uuid: total / layers for uuid, (total, layers) in self._sums.items()}
        if seen and step != self._step:
            self._step = step
            for uuid, maps in seen.items():
                before = self.running.get(uuid)
                if before is not None and before.shape != maps.shape:  # samplers may enlarge the latent
                    before = None
                self.running[uuid] = remembered(before, maps, self._memory)
        return seen

    def _read(self, seen: Observation, rows: slice, text: SubjectText, size: tuple[int, ...]) -> Tensor:
        attention = seen.cross_attention.select(rows)
        if text.compared < text.length:
            attention = attention.block(slice(None), slice(text.compared))
        found, grid = phrase_probabilities(attention, text.compared, text.read), seen.grid  # [B, P, S]
        if self._family.kind != "unet" and grid[1] * grid[2] > 2 * NEAREST**2:
            found, grid = in_cells(found, grid), (grid[0], -(-grid[1] // 2), -(-grid[2] // 2))
        return found.transpose(1, 2).unflatten(2, grid if len(size) > 2 else grid[1:])

    def _check(self, size: tuple[int, ...], images: int, whole: tuple[int, ...]) -> None:
        if size != whole or images != self._batch:
            raise ValueError(
                f"{NODE}: the model was called for {sides(size)} of a latent of {sides(whole)}, and for {images} of "
                f"{self._batch} images. Nodes that sample a picture in tiles, or a batch or clip in context windows, "
                "cannot be combined with this one."
            )
