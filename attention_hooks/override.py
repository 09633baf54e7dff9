"""The host's place for an override of its attention, as all nodes of this pack share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..guidance.word_weights import Inputs
from .probabilities import Attention, attention_of

OVERRIDE = "optimized_attention_override"
POSITIONAL = ("mask", "attn_precision", "skip_reshape", "skip_output_reshape")  # what may follow heads

See = Callable[[dict[str, Any], Attention], None]


@dataclass(frozen=True)
class Override:
    """Shows every attention call as the model makes it, then has it edited, then hands it on.

    previous: another node's override, through which all calls of the host's function go, those that an edit makes too.
    """

    previous: Callable | None
    watching: tuple[See, ...] = ()
    edit: Callable[[HostAttention, dict[str, Any], Attention], Tensor] | None = None

    @classmethod
    def on(cls, transformer_options: dict[str, Any]) -> Override:
        """What is there already, if it is ours; else one in front of it."""
        found = transformer_options.get(OVERRIDE)
        return found if isinstance(found, cls) else cls(found)

    def watched(self, see: See) -> Override:
        return replace(self, watching=(*self.watching, see))

    def __call__(self, func, q, k, v, heads, *args, transformer_options, **kwargs):
        attention = attention_of(q, k, heads, args, kwargs)
        for see in self.watching:
            see(transformer_options, attention)
        kwargs["transformer_options"] = transformer_options
        if self.edit is not None:
            return self.edit(HostAttention(func, self.previous, q, k, v, heads, args, kwargs), transformer_options,
                             attention)
        if self.previous is not None:
            return self.previous(func, q, k, v, heads, *args, **kwargs)
        return func(q, k, v, heads, *args, **kwargs)


class HostAttention:
    """One call of the host's attention function, which can be made again with other inputs in the same layout."""

    def __init__(
        self, func: Callable, previous: Callable | None, q: Tensor, k: Tensor, v: Tensor, heads: int, args: tuple,
        kwargs: dict[str, Any],
    ):
        self.func = func
        self.previous = previous
        self.given = (q, k, v)
        self.heads = heads
        self.kwargs = {**dict(zip(POSITIONAL, args, strict=False)), **kwargs}
        self.by_heads = bool(self.kwargs.get("skip_reshape"))  # [B, heads, S, d], else [B, S, heads * d]
        self.out_by_heads = bool(self.kwargs.get("skip_output_reshape"))

    def plain(self) -> Tensor:
        """What the host gives for the call as it is, in the host's layout."""
        return self._call(self.given, self.kwargs)

    def inputs(self) -> Inputs:
        q, k, v = self.given
        if not self.by_heads:
            width = q.shape[-1] // self.heads
            q, k, v = (t.flatten(2).unflatten(-1, (-1, width)).transpose(1, 2) for t in (q, k, v))
        return Inputs(q, k, v, self.kwargs.get("mask"), self.kwargs.get("scale"))

    def attend(self, inputs: Inputs) -> Tensor:
        """[B, heads, Q, d] from the host's function."""
        q, k, v = inputs[:3]
        if not self.by_heads:
            q, k, v = (t.transpose(1, 2).flatten(2) for t in (q, k, v))
        kwargs = self.kwargs if inputs.mask is None else {**self.kwargs, "mask": inputs.mask}
        out = self._call((q, k, v), kwargs)
        return out if self.out_by_heads else out.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def in_layout(self, out: Tensor) -> Tensor:
        """[B, heads, Q, d] -> the host's layout."""
        return out if self.out_by_heads else out.transpose(1, 2).flatten(2)

    def _call(self, given: tuple[Tensor, Tensor, Tensor], kwargs: dict[str, Any]) -> Tensor:
        if self.previous is not None:
            return self.previous(self.func, *given, self.heads, **kwargs)
        return self.func(*given, self.heads, **kwargs)
