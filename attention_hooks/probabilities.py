"""Head-averaged attention probabilities from the queries and keys of one attention call, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from comfy.model_management import get_free_memory
from torch import Tensor

from ..guidance.precision import widen

BUDGET = {"cpu": 32 * 2**20}  # bytes
GPU_BUDGET = 64 * 2**20  # fewer, larger blocks, so that a step is not a thousand launches
FREE_SHARE = 1 / 16  # of the memory that is free, which bounds it


def memory_budget(device: torch.device) -> int:
    """Bytes that reading one layer may take on this device: what is kept of it, and temporaries, all together."""
    if device.type in BUDGET:
        return BUDGET[device.type]
    return min(GPU_BUDGET, int(get_free_memory(device) * FREE_SHARE))


class Attention(NamedTuple):
    """One attention call, or a block of it: softmax(scale q k^T + mask)."""

    q: Tensor  # [B, heads, Q, d]
    k: Tensor  # [B, kv_heads, K, d]; each serves heads / kv_heads consecutive heads
    mask: Tensor | None = None  # added to the scores; broadcasts to [B, heads, Q, K]
    scale: float | None = None  # None: 1 / sqrt(d)
    cells: tuple[int, int] | None = None  # (h, w): the keys lie on such grids, and cells of 2 x 2 count as one

    def select(self, rows: slice) -> Attention:
        """Some rows of the batch."""
        mask = self.mask if self.mask is None or self.mask.shape[0] == 1 else self.mask[rows]
        return self._replace(q=self.q[rows], k=self.k[rows], mask=mask)

    def block(self, queries: slice, keys: slice) -> Attention:
        """Some queries and keys; the softmax is over these keys alone."""
        mask = self.mask
        if mask is not None:
            mask = mask[..., queries, :] if mask.shape[-2] > 1 else mask
            mask = mask[..., keys] if mask.shape[-1] > 1 else mask
        return self._replace(q=self.q[:, :, queries], k=self.k[:, :, keys], mask=mask)

    def frames(self, count: int, keys: bool) -> list[Attention]:
        """A block for each of `count` equal parts of the queries; `keys`: with the same part of the keys alone."""
        blocks = []
        for frame in range(count):
            of_queries, of_keys = (
                slice(frame * total // count, (frame + 1) * total // count)
                for total in (self.q.shape[2], self.k.shape[2])
            )
            blocks.append(self.block(of_queries, of_keys if keys else slice(None)))
        return blocks

    def pooled(self, grid: tuple[int, int, int], keys: bool) -> Attention:
        """As seen from cells of 2 x 2 on each frame of the queries' grid (frames, h, w), with each cell's mean query.

        keys: whether the keys lie on the same grid, and their probabilities are summed by cells, too. At odd sizes the
        last cells have fewer members. Where queries have masks of their own, the first query's is the cell's.
        """
        count = _over_cells(self.q.new_ones((*grid[1:], 1)))
        total = _over_cells(self.q.unflatten(2, grid))  # [B, heads, frames, h / 2, w / 2, d]
        mask = self.mask
        if mask is not None and mask.shape[-2] > 1:
            mask = mask.unflatten(2, grid)[:, :, :, ::2, ::2].flatten(2, 4)
        return self._replace(q=(total / count).flatten(2, 4), mask=mask, cells=grid[1:] if keys else None)

    def rows(self, budget: int | None = None) -> Iterator[Tensor]:
        """The mean of the probabilities over heads, fp32 or wider, as consecutive [B, p, K] blocks of query positions.

        Blocks are as large as the memory budget allows; None asks the device for it. With cells, K counts these.
        """
        batch, heads, queries, width = self.q.shape
        kv_heads, keys = self.k.shape[1:3]
        shared = heads // kv_heads
        scale = width**-0.5 if self.scale is None else self.scale
        budget = memory_budget(self.k.device) if budget is None else budget
        block = max(1, budget // 4 // (4 * batch * heads * max(keys, 1)))  # scores and probabilities are a half of it
        group = max(1, min(kv_heads, budget // 8 // (4 * batch * max(keys, 1) * width)))  # of keys, widened at once
        for start in range(0, queries, block):
            total: Tensor | None = None
            for first in range(0, kv_heads, group):
                of_keys = slice(first, first + group)
                part = self._scores(slice(start, start + block), of_keys, shared, scale).softmax(dim=-1).sum(dim=1)
                total = part if total is None else total + part
            rows = total / heads
            if self.cells is not None:
                rows = _over_cells(rows.unflatten(-1, (-1, *self.cells)).unsqueeze(-1)).flatten(2)
            yield rows

    def _scores(self, queries: slice, kv_heads: slice, shared: int, scale: float) -> Tensor:
        """[B, heads, p, K] of some queries and of the heads that these heads of the keys serve."""
        heads = slice(kv_heads.start * shared, kv_heads.stop * shared)
        q = widen(self.q[:, heads, queries]) * scale
        k = widen(self.k[:, kv_heads]).mT  # [B, kv_heads, d, K]
        scores = (q.unflatten(1, (-1, shared)).flatten(2, 3) @ k).view(*q.shape[:3], -1)
        if self.mask is not None:
            mask = self.mask[:, :, queries] if self.mask.shape[-2] > 1 else self.mask
            mask = mask[:, heads] if mask.shape[1] > 1 else mask
            scores += widen(mask).clamp_min(torch.finfo(torch.float32).min)  # rows of -inf alone give no NaN
        return scores

    def probabilities(self) -> Tensor:
        """The whole head-averaged map, [B, Q, K]."""
        return torch.cat(list(self.rows()), dim=1)


def _over_cells(values: Tensor) -> Tensor:
    """Sums over cells of 2 x 2, in fp32 or wider. [..., h, w, d] -> [..., ceil(h / 2), ceil(w / 2), d]."""
    height, width, depth = values.shape[-3:]
    dtype = torch.promote_types(values.dtype, torch.float32)
    total = values.new_zeros((*values.shape[:-3], -(-height // 2), -(-width // 2), depth), dtype=dtype)
    for row in (0, 1):
        for column in (0, 1):
            part = values[..., row::2, column::2, :]
            total[..., : part.shape[-3], : part.shape[-2], :] += part
    return total


def attention_of(q: Tensor, k: Tensor, heads: int, args: tuple, kwargs: dict[str, Any]) -> Attention:
    """The Attention of a call of the host's attention functions.

    args and kwargs: what follows heads in that call.
    """
    given = {**dict(zip(("mask", "attn_precision", "skip_reshape"), args, strict=False)), **kwargs}
    if not given.get("skip_reshape"):
        width = q.shape[-1] // heads
        q, k = (t.flatten(2).unflatten(-1, (-1, width)).transpose(1, 2) for t in (q, k))
    mask = given.get("mask")
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min)
        if mask.ndim < 4:  # [Q, K] or [B, Q, K]
            mask = mask.reshape(-1, 1, *mask.shape[-2:])
    return Attention(q, k, mask, given.get("scale"))


class SelfAttention:
    """A head-averaged self-attention [B, P, P] to multiply with; recomputed block by block where it is too large.

    grid (frames, h, w), where it is given: positions attend only within their frame. pool: P counts cells of 2 x 2.
    """

    def __init__(self, attention: Attention, grid: tuple[int, int, int] | None = None, pool: bool = False):
        frames = 1 if grid is None else grid[0]
        self._frames = attention.frames(frames, keys=True)
        self._grid = (1, *grid[1:]) if grid is not None and pool else None  # of the queries, to pool them
        batch, _, positions, _ = self._frames[0].q.shape
        if self._grid is not None:
            positions = -(-self._grid[1] // 2) * -(-self._grid[2] // 2)
        self._budget = memory_budget(attention.q.device)
        fits = 4 * batch * frames * positions**2 <= self._budget // 4
        self._kept = [torch.cat(list(self._rows(frame)), dim=1) for frame in self._frames] if fits else None

    def _rows(self, frame: Attention) -> Iterator[Tensor]:
        return (frame if self._grid is None else frame.pooled(self._grid, keys=True)).rows(self._budget)

    def __matmul__(self, other: Tensor) -> Tensor:
        """[B, P, P] @ [B, P, N] -> [B, P, N]."""
        parts = other.chunk(len(self._frames), dim=1)
        if self._kept is not None:
            return torch.cat([kept @ part for kept, part in zip(self._kept, parts, strict=True)], dim=1)
        return torch.cat(
            [rows @ part for frame, part in zip(self._frames, parts, strict=True) for rows in self._rows(frame)], dim=1
        )


def fold_repeats(attention: Tensor, tokens: int) -> Tensor:
    """Sum the copies of repeated text tokens: [B, P, r * tokens] -> [B, P, tokens].

    The host repeats a shorter prompt to the common length of a batch, which splits each token's probability.
    """
    return attention.unflatten(-1, (-1, tokens)).sum(dim=-2)


def phrase_probabilities(attention: Attention, tokens: int, phrases: Sequence[Sequence[int]]) -> Tensor:
    """[B, P, phrases]: of each phrase the sum over its columns, 0 without any. tokens: of the text, before repeats."""
    blocks = []
    for rows in attention.rows():  # [B, p, tokens], or repeats of it
        rows = fold_repeats(rows, tokens)
        nothing = torch.zeros_like(rows[..., 0])
        blocks.append(torch.stack([sum((rows[..., c] for c in own), nothing) for own in phrases], dim=-1))
    return torch.cat(blocks, dim=1)
