"""Tensors in, pictures out: torch, numpy and PIL. Never imports comfy."""

from .canvas import reduced, tiled
from .heat import DIVERGING, SEQUENTIAL, heat_map
from .regions import LegendEntry, region_picture

__all__ = ["DIVERGING", "SEQUENTIAL", "LegendEntry", "heat_map", "reduced", "region_picture", "tiled"]
