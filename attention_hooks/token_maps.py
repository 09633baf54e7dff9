"""Token maps of every prompt of a run, gathered from all the model calls of one evaluation."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..guidance.attention_maps import Completion, complete, normalise, to_grid
from ..guidance.scfg import foreground_pair
from .families import Family, Layer
from .observe import Call, Observation, watch
from .probabilities import SelfAttention, fold_repeats

log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """What to gather for one cond."""

    tokens: bool
    foreground: bool
    length: int  # text tokens


class TokenMaps(NamedTuple):
    """Means over layers for one cond. tokens: [B, N, h, w] or None. foreground: [B, 2, h, w] or None."""

    tokens: Tensor | None
    foreground: Tensor | None


class _Part:
    """The sums of one cond over the layers of one model call, for some images of the batch."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size = size  # of the latent in that call
        self.tokens: Tensor | None = None
        self.foreground: Tensor | None = None
        self.layers = 0

    def add(self, tokens: Tensor | None, pair: Tensor | None) -> None:
        self.tokens = tokens if self.tokens is None or tokens is None else self.tokens + tokens
        self.foreground = pair if self.foreground is None or pair is None else self.foreground + pair
        self.layers += 1


class Capture:
    """Gathers maps during an evaluation. `downsample`: how many times coarser than the latent the maps are."""

    def __init__(self, node: str, family: Family, layers: list[Layer], downsample: int, completion: Completion):
        self._node = node
        self._family = family
        self._layers = layers
        self._downsample = downsample
        self._completion: Completion = completion
        self._unreadable: set[Layer] = set()
        self._parts: dict[Any, dict[tuple[int, ...], _Part]] = {}
        self._last: dict[Any, dict[tuple[int, ...], _Part]] = {}
        self.begin({}, 0)

    def begin(self, wanted: dict[Any, Any], batch: int) -> None:
        """Gather anew what is Wanted for the conds with these uuids, for a batch of `batch` images."""
        self._wanted = wanted
        self._batch = batch
        self._last |= self._parts
        self._parts = {}
        self._closed: set[tuple[Any, tuple[int, ...]]] = set()
        self._waiting: dict[int, set[Layer]] = {}  # by the id of a call in progress; calls may run in several threads

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        """Options for one model call, in which the conds that are wanted and not yet gathered are watched."""
        uuids = transformer_options.get("uuids", [])
        if self._wanted.keys().isdisjoint(uuids):
            return transformer_options
        images = self._images(call, transformer_options)
        open_chunks = [
            (chunk, uuid) for chunk, uuid in enumerate(uuids)
            if uuid in self._wanted and (uuid, images) not in self._closed
        ]
        if not open_chunks:
            return transformer_options
        waiting = self._waiting[id(call)] = set(self._layers)
        grid = tuple(-(-length // self._downsample) for length in call.size)

        def observer(observation: Observation) -> None:
            waiting.discard(observation.layer)
            for chunk, uuid in open_chunks:
                rows = slice(chunk * len(images), (chunk + 1) * len(images))
                tokens, pair = self._layer_maps(observation, rows, self._wanted[uuid], grid)
                self._parts.setdefault(uuid, {}).setdefault(images, _Part(call.size)).add(tokens, pair)

        return watch(transformer_options, self._family, call, self._layers, observer)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        """Later calls in this evaluation for the same conds and images are other nodes' extra passes."""
        missed = self._waiting.pop(id(call), set())
        if missed < set(self._layers):  # all are missed where another node spares the model the call
            self._note_unreadable(missed)
        seen = self._wanted.keys() & set(transformer_options.get("uuids", []))
        if seen:
            images = self._images(call, transformer_options)
            self._closed |= {(uuid, images) for uuid in seen}

    def called(self, uuid: Any) -> bool:
        """Whether the model was called with this cond, in this evaluation or, where it was spared, in the last."""
        return uuid in self._last or any(uuid == seen for seen, _ in self._closed)

    def maps(self, uuid: Any, size: tuple[int, ...]) -> TokenMaps:
        """What was gathered in this evaluation for the cond with this uuid, which acts on a part of this size.

        Where another node spared the model the call (EasyCache), the maps of the last evaluation that had one.
        ValueError where no layer could be read, or where the model never saw the whole of that part.
        """
        parts = self._parts.get(uuid) or self._last.get(uuid)
        if not parts and not self.called(uuid):
            raise ValueError(
                f"{self._node}: the sampler compares a prompt that it did not show to the model in this step. A guider "
                "or a node of another pack does so; use KSampler or CFGGuider, or remove that node."
            )
        if not parts:
            blocks = ", ".join(f"{name} {number}" for (name, number), *_ in self._layers)
            raise ValueError(
                f"{self._node}: another node replaces every attention layer that this node reads ({blocks}), as those "
                "for attention couple, NegPip or NAG do. Remove that node, limit it to fewer blocks, or choose another "
                "map_scale."
            )
        for part in parts.values():
            if part.size != size:
                raise ValueError(
                    f"{self._node}: the model was called for {' x '.join(map(str, part.size))} of a latent of "
                    f"{' x '.join(map(str, size))}. Nodes that sample a picture in tiles, or in context windows "
                    "other than over the batch, cannot be combined with this one."
                )
        if set(parts) == {tuple(range(self._batch))}:
            (part,) = parts.values()
            return TokenMaps(*(None if sums is None else sums / part.layers for sums in (part.tokens, part.foreground)))
        return TokenMaps(self._over_windows(parts, "tokens"), self._over_windows(parts, "foreground"))

    def _over_windows(self, parts: dict[tuple[int, ...], _Part], name: str) -> Tensor | None:
        first = getattr(next(iter(parts.values())), name)
        if first is None:
            return None
        seen: list[list[Tensor]] = [[] for _ in range(self._batch)]
        for images, part in parts.items():
            maps = getattr(part, name).to(first.device) / part.layers
            for image, own in zip(images, maps, strict=True):
                seen[image].append(own)
        if not all(seen):
            raise ValueError(
                f"{self._node}: a prompt was used for some images of the batch only, because context windows split the "
                "prompts. Turn split_conds_to_windows off."
            )
        return torch.stack([sum(maps) / len(maps) for maps in seen])

    def _layer_maps(
        self, seen: Observation, rows: slice, wanted: Wanted, grid: tuple[int, ...]
    ) -> tuple[Tensor | None, Tensor | None]:
        cross = fold_repeats(seen.cross_attention.select(rows).probabilities(), wanted.length)  # [B, P, N]
        chunk = self._family.chunk
        starts = slice(0, None, chunk) if wanted.length % chunk == 0 else slice(0, 1)
        if not wanted.tokens:
            cross = cross[..., starts].sum(dim=-1, keepdim=True)  # rows sum to 1, so the start tells the rest
            starts = slice(0, 1)
        self_attention = SelfAttention(seen.self_attention.select(rows))
        maps = to_grid(complete(self_attention, cross, self._completion), seen.grid[1:], grid)
        pair = None
        if wanted.foreground:
            start = maps[:, starts].sum(dim=1, keepdim=True)
            pair = foreground_pair(start, 1 - start)
        return (normalise(maps) if wanted.tokens else None), pair

    def _images(self, call: Call, transformer_options: dict[str, Any]) -> tuple[int, ...]:
        """The images of the batch that are in each chunk of this call: all of them, or those of a context window."""
        per_chunk = call.rows // len(transformer_options["uuids"])
        window = transformer_options.get("context_window")
        evolved = transformer_options.get("ad_params", {}).get("sub_idxs")  # of AnimateDiff Evolved's windows
        if window is not None and window.dim == 0:
            anchor = getattr(window, "causal_anchor_index", None)  # an image that the host puts before the window's
            images = ([] if anchor is None else [anchor]) + list(window.index_list)
        else:
            images = list(range(self._batch) if evolved is None else evolved)
        if len(images) != per_chunk:
            raise ValueError(
                f"{self._node}: the model was called for {per_chunk} pictures where the batch has {self._batch}. A "
                "node that samples in tiles, or splits batches in a way of its own, cannot be combined with this one."
            )
        return tuple(images)

    def _note_unreadable(self, layers: set[Layer]) -> None:
        for (name, number), *_ in sorted(layers - self._unreadable):
            log.warning("%s: another node changes the attention of block %s %d; using the others.",
                        self._node, name, number)
        self._unreadable |= layers
