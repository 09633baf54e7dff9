"""Exact weights for tokens inside attention, with the help of whatever function computes that attention.

A weight w(x, j) for query x and key j means
    out(x) = sum_j w e_j v_j / sum_j |w| e_j,    e_j = exp(scale q_x k_j + mask),
for w > 0 the same as log w added to the score; a negative weight turns the key's value round. As attention is linear
in v for fixed q and k, other values, other keys or other queries are all it takes: no mask, and no backend of our own.

  whole weights      the keys stand there so often, 0 times for weight 0: one call (`repeated`)
  constant weights   func(q, k, w v) / (1 + sum_g (w_g - 1) P_g), P_g the probability of a group of tokens, which
                     func(q, k, 1_g) gives: two calls (`scaled`)
  weights by query   the mean, by pi_g = w_g P_g / (1 - sum P + sum w P), of the attention without the groups and that
                     over each group alone: two calls and a little. It is convex, so that nothing cancels in bf16
                     (`mixed`)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .precision import widen

MEMORY = 64 * 2**20  # bytes that what is made beside the result may take
SMALLEST = 1e-6  # probability of all other tokens

Weight: TypeAlias = float | Tensor  # one for all queries, or [B or 1, Q]
Group = tuple[Sequence[int], Weight]  # the columns of some tokens, which are in no other group
Index: TypeAlias = slice | Tensor  # Tensor: int64, on the device of what it picks from


class Inputs(NamedTuple):
    """What attention is computed from."""

    q: Tensor  # [B, heads, Q, d]
    k: Tensor  # [B, kv_heads, K, d]; each serves heads / kv_heads consecutive heads
    v: Tensor  # [B, kv_heads, K, d]
    mask: Tensor | None = None  # bool or additive: [Q, K], [B, Q, K] or [B, heads, Q, K], each of B, heads, Q may be 1
    scale: float | None = None  # None: 1 / sqrt(d)

    def images(self, rows: slice) -> Inputs:
        mask = self.mask
        if mask is not None and mask.ndim > 2 and mask.shape[0] == len(self.q):
            mask = mask[rows]
        return self._replace(q=self.q[rows], k=self.k[rows], v=self.v[rows], mask=mask)

    def queries(self, index: Index) -> Inputs:
        mask = self.mask
        if mask is not None and mask.shape[-2] > 1:
            mask = _take(mask, -2, [index])
        return self._replace(q=_take(self.q, 2, [index]), mask=mask)

    def keys(self, parts: Sequence[Index]) -> Inputs:
        """Those of all the parts, in their order; a key may be in several."""
        mask = None if self.mask is None else _take(self.mask, -1, parts)
        return self._replace(k=_take(self.k, 2, parts), v=_take(self.v, 2, parts), mask=mask)


Attend = Callable[[Inputs], Tensor]  # -> [B, heads, Q, d]; a softmax over the keys
Way = Literal["plain", "repeated", "scaled", "mixed"]


def way(groups: Sequence[Group], keys: int) -> Way:
    """The cheapest exact way to weigh these groups among so many keys."""
    weights = [(len(columns), weight) for columns, weight in groups if isinstance(weight, Tensor) or weight != 1]
    if not weights:
        return "plain"
    if any(isinstance(weight, Tensor) for _, weight in weights):
        return "mixed"
    whole = all(float(weight).is_integer() for _, weight in weights)
    return "repeated" if whole and sum(count * abs(weight) for count, weight in weights) <= keys else "scaled"


def weigh(attend: Attend, inputs: Inputs, groups: Sequence[Group], memory: int = MEMORY) -> Tensor:
    """Attention [B, heads, Q, d] in which the tokens of each group have its weight.

    Raises ValueError where all keys have weight 0.
    """
    groups = [(columns, weight) for columns, weight in groups if isinstance(weight, Tensor) or weight != 1]
    chosen = way(groups, inputs.k.shape[2])
    if chosen == "plain":
        return attend(inputs)
    if chosen == "mixed":
        return mixed(attend, inputs, groups, memory)
    return repeated(attend, inputs, groups) if chosen == "repeated" else scaled(attend, inputs, groups, memory)


def repeated(attend: Attend, inputs: Inputs, groups: Sequence[tuple[Sequence[int], float]]) -> Tensor:
    """Whole weights: each key stands there |weight| times, with its value turned round below 0."""
    parts: list[Index] = [*runs(_others(inputs, groups))]
    negative = 0
    for sign in (1, -1):
        for columns, weight in groups:
            if weight * sign > 0:
                parts += runs(columns) * int(abs(weight))
                negative += (sign < 0) * int(abs(weight)) * len(columns)
    if not parts:
        raise ValueError("no token is left to attend to")
    picked = inputs.keys(parts)
    if negative:
        kept = picked.v.shape[2] - negative
        picked = picked._replace(v=torch.cat([picked.v[:, :, :kept], -picked.v[:, :, kept:]], dim=2))
    return attend(picked)


def scaled(
    attend: Attend, inputs: Inputs, groups: Sequence[tuple[Sequence[int], float]], memory: int = MEMORY
) -> Tensor:
    """Weights that are the same for all queries."""
    factor = inputs.v.new_ones(inputs.v.shape[2])
    for columns, weight in groups:
        for run in runs(columns):
            factor[run] = weight
    weighed = inputs._replace(v=inputs.v * factor[:, None])
    indicators = _indicators(inputs, [columns for columns, _ in groups])
    out = torch.empty_like(inputs.q)
    for rows in _blocks(inputs, memory, 3):
        probabilities = _probabilities(attend, inputs.queries(rows), indicators, len(groups))
        total = 1 + sum((abs(weight) - 1) * probabilities[..., g : g + 1] for g, (_, weight) in enumerate(groups))
        out[:, :, rows] = (attend(weighed.queries(rows)) / total).to(out)
    return out


def mixed(attend: Attend, inputs: Inputs, groups: Sequence[Group], memory: int = MEMORY) -> Tensor:
    """Weights that differ from query to query."""
    others = runs(_others(inputs, groups))
    without = inputs.keys(others) if others else None
    indicators = _indicators(inputs, [columns for columns, _ in groups])
    out = torch.empty_like(inputs.q)
    for rows in _blocks(inputs, memory, 4):
        own = inputs.queries(rows)
        probabilities = _probabilities(attend, own, indicators, len(groups))
        mean = total = torch.zeros_like(probabilities[..., :1])
        if without is not None:
            total = (1 - probabilities.sum(dim=-1, keepdim=True)).clamp_min(SMALLEST)
            mean = total * widen(attend(without.queries(rows)))
        for g, (columns, weight) in enumerate(groups):
            if isinstance(weight, Tensor):
                weight = weight[:, None, rows, None].to(probabilities)  # [B or 1, 1, Q, 1]
            share = weight * probabilities[..., g : g + 1]
            mean = mean + share * group_mean(own, columns)
            total = total + abs(share)
        out[:, :, rows] = (mean / total.clamp_min(torch.finfo(torch.float32).tiny)).to(out)
    return out


def group_probabilities(attend: Attend, inputs: Inputs, groups: Sequence[Sequence[int]]) -> Tensor:
    """The probability of each group of tokens, [B, heads, Q, groups] in fp32 or wider: one call for d groups.

    Where `attend` is a softmax, those of a partition of all keys sum to 1.
    """
    return _probabilities(attend, inputs, _indicators(inputs, groups), len(groups))


def group_mean(inputs: Inputs, columns: Sequence[int]) -> Tensor:
    """Attention over a few tokens alone, [B, heads, Q, d] in fp32 or wider."""
    q, k, v, mask, scale = inputs.keys(runs(columns))
    shared = q.shape[1] // k.shape[1]
    q, k, v = widen(q) * (q.shape[-1] ** -0.5 if scale is None else scale), widen(k), widen(v)
    scores = (q.unflatten(1, (-1, shared)).flatten(2, 3) @ k.mT).view(*q.shape[:3], -1)
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
        mask = mask if mask.ndim == 4 else mask.reshape(-1, 1, *mask.shape[-2:])
        scores = scores + widen(mask).clamp_min(torch.finfo(torch.float32).min)  # rows of -inf alone give no NaN
    p = scores.softmax(dim=-1)
    return (p.unflatten(1, (-1, shared)).flatten(2, 3) @ v).view(*q.shape)


def runs(columns: Iterable[int]) -> list[slice]:
    """Columns as slices of neighbours, in order: sending an index to a GPU would wait for it."""
    found: list[slice] = []
    for column in sorted(columns):
        if found and found[-1].stop == column:
            found[-1] = slice(found[-1].start, column + 1)
        else:
            found.append(slice(column, column + 1))
    return found


def gaps(count: int, taken: Iterable[slice]) -> list[slice]:
    """What slices leave of 0..count, in order."""
    found, start = [], 0
    for part in sorted(taken, key=lambda part: part.start):
        if part.start > start:
            found.append(slice(start, part.start))
        start = max(start, part.stop)
    return [*found, slice(start, count)] if start < count else found


def _others(inputs: Inputs, groups: Sequence[Group]) -> list[int]:
    taken = {column for columns, _ in groups for column in columns}
    return [column for column in range(inputs.k.shape[2]) if column not in taken]


def _take(values: Tensor, axis: int, parts: Sequence[Index]) -> Tensor:
    """The parts of an axis, one after the other."""
    axis %= values.ndim
    picked = [
        values[(slice(None),) * axis + (part,)] if isinstance(part, slice) else values.index_select(axis, part)
        for part in parts
    ]
    return picked[0] if len(picked) == 1 else torch.cat(picked, dim=axis)


def _indicators(inputs: Inputs, groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """Values [B, kv_heads, K, d] that are 1 at a group's tokens, one channel for each group: d of them in each."""
    width = inputs.v.shape[-1]
    values = []
    for first in range(0, len(groups), width):
        value = torch.zeros_like(inputs.v)
        for channel, columns in enumerate(groups[first : first + width]):
            for run in runs(columns):
                value[:, :, run, channel] = 1
        values.append(value)
    return values


def _probabilities(attend: Attend, inputs: Inputs, indicators: Sequence[Tensor], groups: int) -> Tensor:
    found = [widen(attend(inputs._replace(v=value))) for value in indicators]
    return torch.cat(found, dim=-1)[..., :groups]


def _blocks(inputs: Inputs, memory: int, buffers: int) -> Iterator[slice]:
    """The queries, in blocks for which so many fp32 tensors of the result's size take no more than `memory` bytes."""
    batch, heads, queries, width = inputs.q.shape
    size = max(1, memory // (4 * buffers * batch * heads * width))
    for start in range(0, queries, size):
        yield slice(start, min(start + size, queries))
