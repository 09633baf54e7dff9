"""The host's CURVE, which only newer releases of it draw."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from comfy_api import input as host_input
from comfy_api.latest import io

Curve = io.Custom("CURVE")  # the same schema on every host; forceInput in place of the widget that newer ones have
LARGEST = 1e6  # of a point's numbers


def checked_curve(value: Any) -> Any:
    """A curve that can be asked for its value at any x in 0..1, by `interp`. Also takes its points, as API graphs do.

    Raises ValueError for a curve without points, or whose points are not numbers, do not rise in x, or lie below 0.
    """
    points = getattr(value, "points", value.get("points") if isinstance(value, dict) else value)
    if not isinstance(points, (list, tuple)) or not all(map(_is_point, points)):
        raise ValueError(f"curve is a {type(value).__name__}, not a curve of points (x, y). Connect a Curve Editor")
    if not points:
        raise ValueError("curve has no points. Draw at least one in the Curve Editor")
    if any(x >= following for (x, _), (following, _) in pairwise(points)):
        raise ValueError("curve has points that are not in the order of their x. Sort them, each x once")
    if any(not 0 <= x <= 1 or y < 0 for x, y in points):
        raise ValueError("curve has points outside: x is the share of sampling, from 0 to 1, and y is at least 0")
    if hasattr(value, "interp"):
        return value
    if not hasattr(host_input, "CurveInput"):
        raise ValueError("curve needs a newer ComfyUI. Update it, or choose a preset")
    return host_input.CurveInput.from_raw(value)


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, (list, tuple)) and len(point) == 2
        and all(isinstance(number, (int, float)) and abs(number) <= LARGEST for number in point)
    )
