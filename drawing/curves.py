"""Curves over steps, as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from . import canvas
from .canvas import MARGIN, TEXT_SIZE, to_tensor
from .palette import word_colour

WIDTH, HEIGHT = 900, 480
LEFT, BOTTOM = 56, 62  # room for the numbers and for the name of the axis
ROW, CHIP = 34, 22
LINE, DOT = 4, 5
MOST_TICKS = 12
LINES = 5  # across, between the bottom and the top
DASH = 12


class Curve(NamedTuple):
    """values [n]; NaN where there is none."""

    label: str
    values: Tensor
    colour: int | None = None  # the number of its colour; None for its place among the curves
    dashed: bool = False
    missing: str = "in no prompt that acts"  # what the legend says where all values are


def curve_picture(
    steps: list[int], curves: list[Curve], targets: Sequence[tuple[int, float]] = (), title: str | None = None,
    axis: str = "step", scale: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Curves over `steps` (numbers from 1) with a legend. Returns [H, W, 3] in 0..1.

    targets: (step, value) pairs, drawn as short dashes that the curves should reach. scale: the values at the bottom
    and the top, see whole_scale. Pictures with the same number of curves have the same size.
    """
    sheet, pen, top = canvas.new_sheet(LEFT + WIDTH, HEIGHT + BOTTOM + ROW * len(curves), title)
    left, first, last = MARGIN + LEFT, steps[0], steps[-1]
    low, high = scale

    def place(step: float, value: float) -> tuple[float, float]:
        share = (step - first) / (last - first) if last > first else 0.5
        return left + 2 * DOT + share * (WIDTH - 4 * DOT), top + (high - value) / (high - low) * HEIGHT

    for line in range(LINES + 1):
        value = low + (high - low) * line / LINES
        y = place(first, value)[1]
        pen.line((left, y, left + WIDTH, y), fill=canvas.RULE)
        digits = 1 if (high - low) / LINES < 10 else 0
        canvas.write(pen, (left - 10, y), f"{value:.{digits}f}", colour=canvas.QUIET, align="r")
    every = -(-len(steps) // MOST_TICKS)
    for step in steps[::every]:
        canvas.write(pen, (place(step, low)[0], top + HEIGHT + 18), str(step), colour=canvas.QUIET, align="m")
    canvas.write(pen, (left + WIDTH / 2, top + HEIGHT + 44), axis, colour=canvas.QUIET, align="m")
    for step, value in targets:
        x, y = place(step, value)
        pen.line((x - 14, y, x + 14, y), fill=canvas.INK, width=3)

    for number, curve in enumerate(curves):
        shade = word_colour(number if curve.colour is None else curve.colour)
        colour = tuple(round(255 * value) for value in shade.tolist())
        pieces = _without_gaps(steps, curve.values.tolist())
        for known in ([place(*point) for point in piece] for piece in pieces if len(piece) > 1):
            for stroke in _dashes(known) if curve.dashed else [known]:
                pen.line(stroke, fill=colour, width=LINE, joint="curve")
        for x, y in (place(*point) for piece in pieces for point in piece):
            pen.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=canvas.PAPER if curve.dashed else colour,
                        outline=colour, width=2)
        middle = top + HEIGHT + BOTTOM + number * ROW + ROW // 2
        pen.rectangle((left, middle - CHIP // 2, left + CHIP - 1, middle + CHIP // 2 - 1), outline=colour, width=4,
                      fill=canvas.PAPER if curve.dashed else colour)
        ends = [value for value in curve.values.tolist() if value == value]
        told = f"{ends[0]:.2f} to {ends[-1]:.2f}" if ends else curve.missing
        canvas.write(pen, (left + CHIP + 12, middle), f"{curve.label}: {told}", TEXT_SIZE, room=WIDTH - CHIP - 12)
    return to_tensor(sheet)


def whole_scale(curves: Sequence[Curve]) -> tuple[float, float]:
    """A scale with round numbers that holds all values of these curves, and 0 and 1."""
    values = [0.0, 1.0, *(value for curve in curves for value in curve.values.tolist() if value == value)]
    low, high = min(values), max(values)
    rough = max((high - low) / LINES, 0.2)
    power = 10 ** math.floor(math.log10(rough))
    for step in (n * power for n in (1, 2, 3, 4, 5, 10, 20, 30)):
        bottom = math.floor(low / step + 1e-9) * step
        if bottom + LINES * step >= high - 1e-9:
            return bottom, bottom + LINES * step
    raise AssertionError("a step of 30 times the power holds every range")


def _without_gaps(steps: list[int], values: list[float]) -> list[list[tuple[int, float]]]:
    """The points of a curve, in pieces that end where a value is NaN."""
    pieces: list[list[tuple[int, float]]] = [[]]
    for step, value in zip(steps, values, strict=True):
        if value == value:
            pieces[-1].append((step, value))
        else:
            pieces.append([])
    return pieces


def _dashes(points: list[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """A line through these points as short pieces, each about DASH long, with gaps of that length between them."""
    for (x, y), (to_x, to_y) in pairwise(points):
        pieces = max(round(math.hypot(to_x - x, to_y - y) / DASH) | 1, 1)  # odd, so that both ends are drawn
        for piece in range(0, pieces, 2):
            ends = piece / pieces, (piece + 1) / pieces
            yield [(x + share * (to_x - x), y + share * (to_y - y)) for share in ends]
