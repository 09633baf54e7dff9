"""Token maps of every prompt of a run, gathered from all the model calls of one evaluation."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..guidance.attention_maps import Completion, complete, in_cells, normalise, to_grid
from ..guidance.scfg import foreground_pair
from .families import Family
from .layouts import Grid, Layer
from .observe import Call, Observation, watch
from .probabilities import Attention, SelfAttention, fold_repeats

log = logging.getLogger(__name__)
FINE = 32**2  # positions of a transformer's frame that are seen one by one


class Wanted(NamedTuple):
    """What to gather for one cond, whose text has `length` tokens where the model is called.

    columns: the tokens that get a map each, None for all. compared: the first so many tokens, of which the
    probabilities of the maps sum to 1 with those of all other tokens.
    """

    tokens: bool
    foreground: bool
    length: int
    columns: tuple[int, ...] | None = None
    compared: int | None = None  # None: all


class TokenMaps(NamedTuple):
    """Means over layers for one cond, on a grid of the latent. tokens: [B, columns, *grid]. foreground: [B, 2, *grid].

    None where they were not wanted.
    """

    tokens: Tensor | None
    foreground: Tensor | None


class Where(NamedTuple):
    """What part of the batch a model call holds: all of it, or a context window over its images or frames."""

    images: tuple[int, ...]
    frames: tuple[int, ...] | None = None  # of latents; None for all

    @classmethod
    def of(
        cls, call: Call, transformer_options: dict[str, Any], batch: int, layers: list[Layer], node: str
    ) -> Where:
        """ValueError, naming the node, where another one divides a batch of this size in a way of its own."""
        per_chunk = call.rows // len(transformer_options["uuids"])
        window = transformer_options.get("context_window")
        evolved = transformer_options.get("ad_params", {}).get("sub_idxs")  # of AnimateDiff Evolved's windows
        images, frames = range(batch) if evolved is None else evolved, None
        if window is not None and window.dim in (0, 2):
            anchor = getattr(window, "causal_anchor_index", None)  # what the host puts before the window's own
            own = ([] if anchor is None else [anchor]) + list(window.index_list)
            if window.dim == 0:
                images = own
            elif len(call.size) == 3 and len(own) == call.size[0] and layers[0].frames == 1:
                frames = tuple(own)
        if len(images) != per_chunk:
            raise ValueError(
                f"{node}: the model was called for {per_chunk} pictures where the batch has {batch}. A node that "
                "samples in tiles, or splits batches in a way of its own, cannot be combined with this one."
            )
        return cls(tuple(images), frames)


class _Part:
    """The sums of one cond over the layers of one model call."""

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
    """Gathers maps during an evaluation. `downsample`: how many times coarser than the latent a UNet's maps are.

    A transformer's maps are on the grid of its positions. Where they are completed and a frame has more than FINE, they
    are on one of half its height and width: self-attention, within each frame, is then that of pooled queries.
    """

    def __init__(self, node: str, family: Family, layers: list[Layer], downsample: int, completion: Completion):
        self._node = node
        self._family = family
        self._layers = layers
        self._downsample = downsample
        self._completion: Completion = completion
        self._unreadable: set[Layer] = set()
        self._indices: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self._parts: dict[Any, dict[Where, _Part]] = {}
        self._last: dict[Any, dict[Where, _Part]] = {}
        self.begin({}, 0)

    def begin(self, wanted: dict[Any, Any], batch: int) -> None:
        """Gather anew what is Wanted for the conds with these uuids, for a batch of `batch` images."""
        self._wanted = wanted
        self._batch = batch
        self._last |= self._parts
        self._parts = {}
        self._closed: set[tuple[Any, Where]] = set()
        self._waiting: dict[int, set[Layer]] = {}  # by the id of a call in progress; calls may run in several threads

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        """Options for one model call, in which the conds that are wanted and not yet gathered are watched."""
        uuids = transformer_options.get("uuids", [])
        if self._wanted.keys().isdisjoint(uuids):
            return transformer_options
        where = self._where(call, transformer_options)
        open_chunks = [
            (chunk, uuid) for chunk, uuid in enumerate(uuids)
            if uuid in self._wanted and (uuid, where) not in self._closed
        ]
        if not open_chunks:
            return transformer_options
        waiting = self._waiting[id(call)] = set(self._layers)

        def observer(observation: Observation) -> None:
            waiting.discard(observation.layer)
            grid = self._grid(observation.grid, call.size)
            for chunk, uuid in open_chunks:
                rows = slice(chunk * len(where.images), (chunk + 1) * len(where.images))
                tokens, pair = self._layer_maps(observation, rows, self._wanted[uuid], grid)
                self._parts.setdefault(uuid, {}).setdefault(where, _Part(call.size)).add(tokens, pair)

        return watch(transformer_options, self._family, call, self._layers, observer)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        """Later calls in this evaluation for the same conds and images are other nodes' extra passes."""
        missed = self._waiting.pop(id(call), set())
        if missed < set(self._layers):  # all are missed where another node spares the model the call
            self._note_unreadable(missed)
        seen = self._wanted.keys() & set(transformer_options.get("uuids", []))
        if seen:
            where = self._where(call, transformer_options)
            self._closed |= {(uuid, where) for uuid in seen}

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
                "for attention couple, NegPip or NAG do, or divides it among devices. Remove that node, or limit it to "
                "fewer blocks. Without such a node: this ComfyUI is too old for nodes to read this model; update it."
            )
        for where, part in parts.items():
            seen = part.size if where.frames is None else (size[0], *part.size[1:])
            if seen != size:
                raise ValueError(
                    f"{self._node}: the model was called for {' x '.join(map(str, part.size))} of a latent of "
                    f"{' x '.join(map(str, size))}. Nodes that sample a picture in tiles, or in context windows over "
                    "its height or width, cannot be combined with this one."
                )
        maps = TokenMaps(self._whole(parts, "tokens", size), self._whole(parts, "foreground", size))
        if len(size) == 2:
            maps = TokenMaps(*(None if found is None else found.squeeze(2) for found in maps))
        return maps

    def _whole(self, parts: dict[Where, _Part], name: str, size: tuple[int, ...]) -> Tensor | None:
        """The maps [B, N, t, h, w] of the whole batch: means over layers, and over the windows that overlap."""
        means = {where: getattr(part, name) for where, part in parts.items()}
        if any(found is None for found in means.values()):
            return None
        means = {where: found / parts[where].layers for where, found in means.items()}
        if set(means) == {Where(tuple(range(self._batch)))}:
            (whole,) = means.values()
            return whole
        first = next(iter(means.values()))
        frames = first.shape[2] if next(iter(means)).frames is None else size[0]
        seen: dict[tuple[int, int], list[Tensor]] = {}
        for where, found in means.items():
            for image, own in zip(where.images, found.to(first.device), strict=True):
                for frame, picture in zip(where.frames or range(frames), own.unbind(1), strict=True):
                    seen.setdefault((image, frame), []).append(picture)
        if len(seen) < self._batch * frames:
            raise ValueError(
                f"{self._node}: a prompt was used for some images or frames only, because context windows split the "
                "prompts. Turn split_conds_to_windows off."
            )
        clips = [
            torch.stack([sum(seen[image, frame]) / len(seen[image, frame]) for frame in range(frames)], dim=1)
            for image in range(self._batch)
        ]
        return torch.stack(clips)

    def _grid(self, layer_grid: Grid, size: tuple[int, ...]) -> Grid:
        """Of the maps, to which all layers are brought."""
        if self._family.kind == "unet":
            height, width = (-(-length // self._downsample) for length in size[-2:])
            return layer_grid[0], height, width
        if not self._pools(layer_grid):
            return layer_grid
        return layer_grid[0], -(-layer_grid[1] // 2), -(-layer_grid[2] // 2)

    def _pools(self, layer_grid: Grid) -> bool:
        dense = layer_grid[1] * layer_grid[2] > FINE
        return dense and self._family.kind != "unet" and self._completion != "none"

    def _layer_maps(
        self, seen: Observation, rows: slice, wanted: Wanted, grid: Grid
    ) -> tuple[Tensor | None, Tensor | None]:
        """One layer's maps: [B, columns, *grid] of tokens, [B, 2, *grid] of background and foreground."""
        cross, layer_grid = self._words(seen.cross_attention.select(rows), wanted), seen.grid  # [B, P, N]
        if self._completion != "none":
            pool = self._pools(seen.grid)
            if pool:
                cross, layer_grid = in_cells(cross, seen.grid), grid
            own = SelfAttention(seen.self_attention.select(rows), seen.grid, pool)
            cross = complete(own, cross, self._completion)
        maps = to_grid(cross, layer_grid, grid)
        tokens = maps.shape[1] - int(wanted.foreground)
        pair = None
        if wanted.foreground:
            start = maps[:, tokens:]
            pair = foreground_pair(start, 1 - start)
        return (normalise(maps[:, :tokens]) if wanted.tokens else None), pair

    def _words(self, attention: Attention, wanted: Wanted) -> Tensor:
        """[B, P, N]: the probabilities of the wanted columns; after them, for the foreground, of all start tokens.

        Columns are picked block by block of positions, so that not all text tokens are held for all positions.
        """
        compared = wanted.compared or wanted.length
        if compared < wanted.length:
            attention = attention.block(slice(None), slice(compared))
        chunk = self._family.chunk
        starts = slice(0, None, chunk) if chunk and compared % chunk == 0 else slice(0, 1)
        blocks = []
        for rows in attention.rows():  # [B, p, compared], or repeats of it
            rows = fold_repeats(rows, compared)
            picked = []
            if wanted.tokens:
                picked.append(rows if wanted.columns is None else rows[..., self._index(wanted.columns, rows.device)])
            if wanted.foreground:
                picked.append(rows[..., starts].sum(dim=-1, keepdim=True))
            blocks.append(torch.cat(picked, dim=-1))
        return torch.cat(blocks, dim=1)

    def _index(self, columns: tuple[int, ...], device: torch.device) -> Tensor:
        """Made once: bringing it to a GPU waits for the GPU."""
        if (columns, device) not in self._indices:
            self._indices[columns, device] = torch.tensor(columns, device=device)
        return self._indices[columns, device]

    def _where(self, call: Call, transformer_options: dict[str, Any]) -> Where:
        return Where.of(call, transformer_options, self._batch, self._layers, self._node)

    def _note_unreadable(self, layers: set[Layer]) -> None:
        for (name, number), *_ in sorted(layers - self._unreadable):
            log.warning("%s: another node changes the attention of block %s %d; using the others.",
                        self._node, name, number)
        self._unreadable |= layers
