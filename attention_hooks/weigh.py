"""Apply the edits of all nodes to one forward, by calls of the host's own attention.

Only chunks of conds that an edit names are computed in another way, and of joint attention only the picture's queries,
but for parts that name rows of the text. Nothing else changes: with no edit, the host computes what it always does.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..guidance.word_weights import MEMORY, Index, Inputs, gaps, group_probabilities, runs, way, weigh
from .edits import ByOwner, Change, Edit, Part, Site
from .families import Family
from .grids import alike, by_owner, nearest, on_device, on_grid, some
from .layouts import Grid, Layer, Place
from .observe import Call, Observation, watcher_of
from .override import OVERRIDE, HostAttention, Override
from .probabilities import Attention

log = logging.getLogger(__name__)
AVERAGE = 0.02  # how far from 1 the probabilities of all keys may sum to
GATHERED = 4  # tensors as large as the queries that a part takes at once
HOW = {"plain": "plain", "repeated": "repeated keys", "scaled": "two calls", "mixed": "two calls, by query"}


class Hard(NamedTuple):
    """ByOwner on a layer's grid: [B or 1, P] on the CPU."""

    owners: Tensor
    weights: tuple[float, ...]


def edited(
    transformer_options: dict[str, Any], family: Family, call: Call, layers: Sequence[Layer], edit: Edit
) -> dict[str, Any]:
    """A copy of one forward's transformer_options in which `edit` changes attention, with those that are there already.

    layers: of the model (`every_layer`). Observers, before and after it, see what attention would be without edits.
    """
    there = Override.on(transformer_options)
    edit.layers = len(layers)
    if isinstance(there.edit, _Editor):
        return {**transformer_options, OVERRIDE: replace(there, edit=there.edit.joined_by(edit))}
    editor = _Editor(family, call, layers, transformer_options["uuids"])
    options = transformer_options if family.keyed else editor.watcher.counted(transformer_options)
    return {**options, OVERRIDE: replace(there, edit=editor.joined_by(edit))}


class _Spot(NamedTuple):
    """Where the call is, without the queries and keys that tell it: they would be held while it is computed."""

    layer: Layer
    grid: Grid
    place: Place


class _Queries(NamedTuple):
    """Some of the picture's, in images that have the same ones."""

    images: slice
    rows: Tensor  # among the picture's, on the CPU
    index: Tensor  # among all of the call
    share: Tensor  # [B, 1, rows, 1]


class _Editor:
    """The edits of one forward."""

    def __init__(self, family: Family, call: Call, layers: Sequence[Layer], uuids: list[Any]):
        self.family = family
        self.own = call.text  # tokens of each chunk's own text; what is joined behind belongs to those with parts
        self.call = call = call._replace(text=call.tokens, ahead=0, behind=0)
        self.uuids = uuids
        self.edits: tuple[Edit, ...] = ()
        self.numbers = {layer: number for number, layer in enumerate(layers)}
        self.watcher = watcher_of(family, call, self.numbers, self._note, alone=True)
        self._found: _Spot | None = None
        self._resized: dict[tuple, tuple[Tensor, Tensor]] = {}  # with what was resized, so that its id stays its

    def joined_by(self, edit: Edit) -> _Editor:
        self.edits = (*self.edits, edit)
        return self

    def _note(self, seen: Observation) -> None:
        self._found = _Spot(seen.layer, seen.grid, seen.place)

    def __call__(self, host: HostAttention, options: dict[str, Any], attention: Attention) -> Tensor:
        """One attention call, in the host's layout."""
        self.watcher.see(options, attention)
        seen, self._found = self._found, None
        if seen is None:
            return self._unseen(host, options)
        changes = self._changes(seen)
        if not changes or not self._is_average(host, seen.layer):
            return self._alone(host, seen.place.text)
        inputs = host.inputs()
        images = self.call.rows // len(self.uuids)
        out = torch.empty_like(inputs.q)
        untouched = [chunk for chunk in range(len(self.uuids)) if chunk not in changes]
        for run in runs(untouched):
            rows = slice(run.start * images, run.stop * images)
            out[rows] = host.attend(self.of_own(inputs.images(rows), seen.place.text))
        for chunk, merged in changes.items():
            rows = slice(chunk * images, (chunk + 1) * images)
            out[rows] = _Chunk(self, host, inputs.images(rows), seen, merged).attention()
        return host.in_layout(out)

    @property
    def joined(self) -> int:
        """Tokens behind the chunks' own texts."""
        return self.call.text - self.own

    def of_own(self, inputs: Inputs, text: slice) -> Inputs:
        """Without the keys that are joined behind a chunk's own text."""
        if not self.joined:
            return inputs
        return inputs.keys(gaps(inputs.k.shape[2], [slice(text.start + self.own, text.start + self.call.text)]))

    def _alone(self, host: HostAttention, text: slice) -> Tensor:
        """Attention to the chunks' own texts, in the host's layout."""
        if not self.joined:
            return host.plain()
        return host.in_layout(host.attend(self.of_own(host.inputs(), text)))

    def _unseen(self, host: HostAttention, options: dict[str, Any]) -> Tensor:
        """A call that is no layer's attention of the picture to the text: mostly of the picture or the text alone.

        Where it is of the text alone, prompts do not see each other. What pads it at its end goes with the chunk's own.
        """
        if not self.joined:
            return host.plain()
        inputs = host.inputs()
        queries, keys = inputs.q.shape[2], inputs.k.shape[2]
        if keys == self.call.text != queries and self.family.kind != "joint":
            return self._alone(host, slice(0, keys))
        if not self._is_before_blocks(options) or queries != keys or len(inputs.q) != self.call.rows \
                or not self.call.text <= keys < self.call.text + self.family.sequence.pad:
            return host.plain()
        out = torch.empty_like(inputs.q)
        own = gaps(keys, [slice(self.own, self.call.text)])
        for run in own:
            out[:, :, run] = host.attend(inputs.queries(run).keys(own))
        starts = next((edit.prompts for edit in self.edits if edit.prompts), ())
        for first, stop in pairwise((*starts, self.joined)):
            run = slice(self.own + first, self.own + stop)
            out[:, :, run] = host.attend(inputs.queries(run).keys([run]))
        return host.in_layout(out)

    def _is_before_blocks(self, options: dict[str, Any]) -> bool:
        """Whether a transformer calls attention outside of its blocks, as it does for its text before them."""
        if self.family.keyed:
            return self.family.kind != "unet" and self.watcher.key(options) is None
        return self.family.kind == "joint" and not self.watcher.count

    def copies(self, columns: Sequence[int], length: int) -> list[int]:
        """Columns of a cond's text of this length, and of what is joined to it, in the call: its own is repeated."""
        copied = [copy for column in columns if column < length for copy in range(column, self.own, length)]
        return sorted([*copied, *(column - length + self.own for column in columns if column >= length)])

    def _changes(self, seen: _Spot) -> dict[int, list[tuple[Edit, Change]]]:
        """Of each chunk that has any."""
        images = self.call.rows // len(self.uuids)
        found: dict[int, list[tuple[Edit, Change]]] = {}
        for chunk, uuid in enumerate(self.uuids):
            site = Site(uuid, seen.layer, self.numbers[seen.layer], len(self.numbers), seen.grid, images)
            for edit in self.edits:
                change = edit.change(site)
                if change is not None and (change.groups or change.parts) and self.own % change.length == 0:
                    found.setdefault(chunk, []).append((edit, change))
                    edit.acted.setdefault(seen.layer, "")
        return found

    def _is_average(self, host: HostAttention, layer: Layer) -> bool:
        """Whether a layer's attention is a mean of values, as the maths needs; asked once a run, of others' code."""
        known = self.edits[0].averages
        if layer not in known:
            inputs = host.inputs()
            foreign = host.previous is not None or not str(getattr(host.func, "__module__", "")).startswith("comfy.")
            known[layer] = not foreign or _sums_to_one(host, inputs)
            if not known[layer]:
                name, number = layer.block
                log.warning("%s: what another node computes as attention in block %s %d is no average of values; "
                            "leaving it as it is.", self.edits[0].node, name, number)
        if not known[layer]:
            for edit in self.edits:
                edit.acted.pop(layer, None)
        return known[layer]

    def acted(self, layer: Layer, how: str) -> None:
        for edit in self.edits:
            if layer in edit.acted:
                edit.acted[layer] = how

    def resized(self, resize: Callable[..., Tensor], values: Tensor, grid: Grid, *settings: Any) -> Tensor:
        """resize(values, grid, *settings), once a forward."""
        key = (resize, id(values), grid, *settings)
        if key not in self._resized:
            self._resized[key] = (values, resize(values, grid, *settings))
        return self._resized[key][1]


def _sums_to_one(host: HostAttention, inputs: Inputs) -> bool:
    count = inputs.k.shape[2]
    halves = [range(count // 2), range(count // 2, count)]
    total = group_probabilities(host.attend, inputs, halves).sum(dim=-1)
    return bool((total - 1).abs().amax() <= AVERAGE)


class _Chunk:
    """The attention of one cond's rows in one layer."""

    def __init__(
        self, editor: _Editor, host: HostAttention, inputs: Inputs, seen: _Spot,
        changes: Sequence[tuple[Edit, Change]],
    ):
        self.editor = editor
        self.host = host
        self.seen = seen
        self.place: Place = seen.place
        self.hard = editor.family.kind == "joint"
        of_parts = [(edit, change) for edit, change in changes if change.parts]
        if len(of_parts) > 1:
            raise ValueError(f"{editor.edits[-1].node}: another node divides the prompt already. Keep one of them.")
        self.parts: tuple[Part, ...] = of_parts[0][1].parts if of_parts else ()
        self.length = of_parts[0][1].length if of_parts else 0
        self.kept = of_parts[0][0].kept if of_parts else {}
        self.inputs = inputs if self.parts else editor.of_own(inputs, self.place.text)
        self.groups = list(self._merged([change for _, change in changes]))

    def _merged(self, changes: Sequence[Change]) -> Iterator[tuple[tuple[int, ...], list[Any]]]:
        """Disjoint groups of text columns of the call, each with all the weights that multiply there."""
        groups = [(change.length, group) for change in changes for group in change.groups]
        member: dict[int, list[int]] = defaultdict(list)
        for number, (length, group) in enumerate(groups):
            for column in self.editor.copies(group.columns, length):
                member[column].append(number)
        together: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for column, numbers in member.items():
            together[tuple(numbers)].append(column)
        for members, columns in together.items():
            yield tuple(columns), [self._on_grid(groups[number][1].weight) for number in members]

    def _on_grid(self, weight: Any) -> Any:
        resized, grid, device = self.editor.resized, self.seen.grid, self.inputs.q.device
        if isinstance(weight, ByOwner) and self.hard:
            return Hard(resized(nearest, weight.owners, grid), weight.weights)
        if isinstance(weight, ByOwner):
            return resized(by_owner, weight.owners, grid, weight.weights, device)
        return resized(on_device, weight, grid, device) if isinstance(weight, Tensor) else float(weight)

    def attention(self) -> Tensor:
        """[B, heads, Q, d]"""
        image, text, queries = self.place.image, self.place.text, self.inputs.q.shape[2]
        every = (image.start, image.stop) == (0, queries)
        if not self.parts:
            groups = [(tuple(text.start + column for column in columns), weights) for columns, weights in self.groups]
            if every:
                return self._weighed(self.inputs, groups)
            out = torch.empty_like(self.inputs.q)
            out[:, :, image] = self._weighed(self.inputs.queries(image), groups)
            self._plain(out, gaps(queries, [image]))
            return out
        out = torch.zeros_like(self.inputs.q)
        covered = [image]
        for part in self.parts:
            rows = runs(text.start + row for row in self.editor.copies(part.rows, self.length))
            covered += rows
            self._part(part, out, rows)
        self._plain(out, gaps(queries, covered))
        return out

    def _plain(self, out: Tensor, rows: list[slice]) -> None:
        inputs = self.editor.of_own(self.inputs, self.place.text) if self.parts else self.inputs
        for run in rows:
            out[:, :, run] = self.host.attend(inputs.queries(run))

    def _part(self, part: Part, out: Tensor, text_rows: list[slice]) -> None:
        """Add a part's share to the picture's queries, and set those of its text."""
        columns = self.editor.copies(part.columns, self.length)
        place = {column: number for number, column in enumerate(columns)}  # its text comes first among its keys
        groups = [
            (tuple(place[column] for column in own if column in place), weights) for own, weights in self.groups
        ]
        groups = [(own, weights) for own, weights in groups if own]
        for images, keys in self._keys(part, columns):
            inputs = self.inputs.images(images).keys(keys)
            for run in text_rows:
                out[images, :, run] = self.host.attend(inputs.queries(run))
            if part.share is None:
                continue
            for own, rows, index, share in self._queries(part.share, images):
                few = slice(own.start - images.start, own.stop - images.start)
                found = self._weighed(inputs.images(few).queries(index), groups, own, rows)
                out[own, :, index] = out[own].index_select(2, index) + share.to(found) * found

    def _queries(self, share: Tensor, images: slice) -> list[_Queries]:
        """Those of these images that have a share, in blocks, known for as long as the edit keeps them."""
        q = self.inputs.q
        key = (id(share), images.start, images.stop, self.seen.grid, self.place.image.start, q.device, q.shape[3])
        if key not in self.kept:
            shares = on_grid(share, self.seen.grid).expand(len(q), -1)[images]
            self.kept[key] = share, [  # with the share, so that its id stays its
                _Queries(
                    slice(images.start + few.start, images.start + few.stop), rows,
                    (rows + self.place.image.start).to(q.device), shares[few][:, None, rows, None].to(q.device),
                )
                for few, every in alike(shares > 0) for rows in every.split(self._block(few.stop - few.start))
                if len(rows)
            ]
        return self.kept[key][1]

    def _block(self, images: int) -> int:
        """How many queries are gathered at once: with what comes of them, within the memory that there is."""
        _, heads, _, width = self.inputs.q.shape
        return max(1, MEMORY // (GATHERED * images * heads * width * self.inputs.q.element_size()))

    def _keys(self, part: Part, columns: list[int]) -> Iterator[tuple[slice, list[Index]]]:
        """The keys that a part's queries see, by images that see the same ones: its text first, then all else."""
        text, image = self.place
        keys = self.inputs.k.shape[2]
        own: list[Index] = [*runs(text.start + column for column in columns)]
        joint = self.hard
        rest = gaps(keys, [text, image] if joint else [text])
        if not joint:
            yield slice(0, self.inputs.q.shape[0]), [*own, *rest]
        elif part.seen is None:
            yield slice(0, self.inputs.q.shape[0]), [*own, *rest, image]
        else:
            for images, places in self._places(part.seen):
                yield images, [*own, *rest, places]

    def _places(self, seen: Tensor) -> list[tuple[slice, Tensor]]:
        """The picture's keys that are seen, by images that see the same ones; known as _queries are."""
        key = (id(seen), self.seen.grid, self.place.image.start, self.inputs.q.device)
        if key not in self.kept:
            there = (on_grid(seen, self.seen.grid) > 0).expand(self.inputs.q.shape[0], -1)
            device, start = self.inputs.q.device, self.place.image.start
            self.kept[key] = seen, [(few, (places + start).to(device)) for few, places in alike(there)]
        return self.kept[key][1]

    def _weighed(
        self, inputs: Inputs, groups: Sequence[tuple[tuple[int, ...], list[Any]]], images: slice | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Attention of some of the picture's queries, in which weights multiply. places: which, on the CPU; None: all.

        images: which of the batch; None: all.
        """
        images = slice(0, len(self.inputs.q)) if images is None else images
        hard = [weight for _, weights in groups for weight in weights if isinstance(weight, Hard)]
        if not hard:
            return self._soft(inputs, groups, images, places, None)
        code = torch.zeros((1, 1), dtype=torch.int64)
        for weight in {id(weight.owners): weight for weight in hard}.values():
            code = code * len(weight.weights) + some(weight.owners, images, places)
        out = torch.empty_like(inputs.q)
        for few, _ in alike(code.expand(len(inputs.q), -1)):
            same = code.expand(len(inputs.q), -1)[few.start]
            for each in same.unique().tolist():
                rows = (same == each).nonzero()[:, 0]
                index = rows.to(out.device)
                own = slice(images.start + few.start, images.start + few.stop)
                at = rows if places is None else places[rows]
                found = self._soft(inputs.images(few).queries(index), groups, own, at, int(at[0]))
                out[few, :, index] = found
        return out

    def _soft(
        self, inputs: Inputs, groups: Sequence[tuple[tuple[int, ...], list[Any]]], images: slice,
        places: Tensor | None, place: int | None,
    ) -> Tensor:
        """The same where all these queries have the owners that `place` has."""
        resolved = []
        for columns, weights in groups:
            product: Any = 1.0
            for weight in weights:
                if isinstance(weight, Hard):
                    weight = weight.weights[int(some(weight.owners, images, None)[0, place])]
                elif isinstance(weight, Tensor):
                    weight = some(weight, images, places)
                product = product * weight
            resolved.append((columns, product))
        self.editor.acted(self.seen.layer, HOW[way(resolved, inputs.k.shape[2])])
        return weigh(self.host.attend, inputs, resolved)
