"""Head-averaged attention probabilities from the queries and keys of one attention call, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

MEMORY_BUDGET = 8 * 2**20  # bytes that a temporary [heads, rows, keys] or a kept [P, P] may take


class Attention(NamedTuple):
    """The queries and keys of one call, [B, P, heads * d] and [B, K, heads * d]."""

    q: Tensor
    k: Tensor
    heads: int

    def select(self, rows: slice) -> Attention:
        return Attention(self.q[rows], self.k[rows], self.heads)

    def rows(self) -> Iterator[Tensor]:
        """softmax(q k^T / sqrt(d)) averaged over heads, fp32, as consecutive [B, p, K] blocks of query positions.

        Blocks are as large as the memory budget allows.
        """
        q = self.q.unflatten(-1, (self.heads, -1)).transpose(1, 2).float()  # [B, heads, P, d]
        k = self.k.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1).float()  # [B, heads, d, K]
        q = q * q.shape[-1] ** -0.5
        block = max(1, MEMORY_BUDGET // (4 * q.shape[0] * self.heads * k.shape[-1]))
        for part in q.split(block, dim=2):
            yield (part @ k).softmax(dim=-1).mean(dim=1)

    def probabilities(self) -> Tensor:
        """The whole head-averaged map, [B, P, K]."""
        return torch.cat(list(self.rows()), dim=1)


class SelfAttention:
    """A head-averaged self-attention [B, P, P] to multiply with; recomputed block by block where it is too large."""

    def __init__(self, attention: Attention):
        batch, positions, _ = attention.q.shape
        fits = 4 * batch * positions**2 <= MEMORY_BUDGET
        self._attention = attention
        self._kept = attention.probabilities() if fits else None

    def __matmul__(self, other: Tensor) -> Tensor:
        """[B, P, P] @ [B, P, N] -> [B, P, N]."""
        if self._kept is not None:
            return self._kept @ other
        return torch.cat([rows @ other for rows in self._attention.rows()], dim=1)


def fold_repeats(attention: Tensor, tokens: int) -> Tensor:
    """Sum the copies of repeated text tokens: [B, P, r * tokens] -> [B, P, tokens].

    The host repeats a shorter prompt to the common length of a batch, which splits each token's probability.
    """
    return attention.unflatten(-1, (-1, tokens)).sum(dim=-2)
