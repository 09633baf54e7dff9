"""What may be connected where a place is asked for: a mask, or boxes as the host draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sampling.regional.region import Boxes

Place = io.Custom("MASK,BOUNDING_BOX,ARRAY")  # as the host writes several types; those that older hosts lack are unused
ELEMENT = 1000.0  # the edge of the picture in elements, which have their boxes as [top, left, bottom, right]
Edges = tuple[float, float, float, float]


def checked_place(value: Any, number: int) -> Tensor | Boxes:
    """A mask, or the boxes; the one with this number from 1, or with 0 all of them.

    Takes what Create Bounding Boxes gives as bboxes or elements, one box alone, or a list of boxes.
    Raises ValueError for anything else, and for what has no size.
    """
    if isinstance(value, Tensor):
        if value.ndim < 2 or not value.numel():
            raise ValueError("where has no height and width. Connect another mask")
        if not value.isfinite().all():
            raise ValueError("where has values that are not numbers (NaN). Connect another mask")
        return value
    boxes = _listed(value)
    if not boxes:
        raise ValueError("where has no boxes. Draw at least one")
    if number > len(boxes):
        raise ValueError(f"box is {number}, but where has {len(boxes)}. Choose one of them, or 0 for all")
    edges = [_edges(box) for box in boxes]
    kinds = {in_pixels for _, in_pixels in edges}
    if len(kinds) > 1:
        raise ValueError("where mixes boxes in pixels with elements. Connect one kind")
    chosen = edges[number - 1 : number] if number else edges
    return Boxes(tuple(found for found, _ in chosen), kinds.pop())


def _listed(value: Any) -> list:
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise ValueError(
            f"where is a {type(value).__name__}, not a mask or boxes. Connect a mask, a Bounding Box, or what Create "
            "Bounding Boxes gives"
        )
    if value and isinstance(value[0], list):  # one list for each picture
        if len(value) > 1:
            raise ValueError(f"where has boxes for {len(value)} pictures. Connect those of one picture")
        return value[0]
    return value


def _edges(box: Any) -> tuple[Edges, bool]:
    """(left, top, right, bottom), and whether they are in pixels."""
    if isinstance(box, dict) and "bbox" in box:
        top, left, bottom, right = (number / ELEMENT for number in _numbers(box["bbox"], box))
        edges, in_pixels = (min(left, right), min(top, bottom), max(left, right), max(top, bottom)), False
    else:
        sides = [box.get(name) for name in ("x", "y", "width", "height")] if isinstance(box, dict) else []
        x, y, width, height = _numbers(sides, box)
        edges, in_pixels = (x, y, x + width, y + height), True
    if not (edges[0] < edges[2] and edges[1] < edges[3]):
        raise ValueError(f"where has a box without a size: {box}. Draw it larger")
    return edges, in_pixels


def _numbers(values: Any, box: Any) -> Sequence[float]:
    if (
        not isinstance(values, (list, tuple)) or len(values) != 4
        or not all(isinstance(number, (int, float)) and math.isfinite(number) for number in values)
    ):
        raise ValueError(f"where has a box that is none: {str(box)[:80]}. It needs numbers x, y, width and height")
    return values
