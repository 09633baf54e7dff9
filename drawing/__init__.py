"""Tensors in, pictures out: torch, numpy and PIL. Never imports comfy."""

from .heat import DIVERGING, SEQUENTIAL, heat_map

__all__ = ["DIVERGING", "SEQUENTIAL", "heat_map"]
