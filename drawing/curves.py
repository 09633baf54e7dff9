"""Curves over steps between 0 and 1, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
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


class Curve(NamedTuple):
    """values [n] between 0 and 1; NaN where there is none."""

    label: str
    values: Tensor


def curve_picture(
    steps: list[int], curves: list[Curve], targets: Sequence[tuple[int, float]] = (), title: str | None = None,
    axis: str = "step",
) -> Tensor:
    """Curves over `steps` (numbers from 1) with a legend. Returns [H, W, 3] in 0..1.

    targets: (step, value) pairs, drawn as short dashes that the curves should reach. Colours are those of the
    words' numbers, in the order of the curves. Pictures with the same number of curves have the same size.
    """
    sheet, pen, top = canvas.new_sheet(LEFT + WIDTH, HEIGHT + BOTTOM + ROW * len(curves), title)
    left, first, last = MARGIN + LEFT, steps[0], steps[-1]

    def place(step: float, value: float) -> tuple[float, float]:
        share = (step - first) / (last - first) if last > first else 0.5
        return left + 2 * DOT + share * (WIDTH - 4 * DOT), top + (1 - value) * HEIGHT

    for tenth in range(0, 11, 2):
        y = place(first, tenth / 10)[1]
        pen.line((left, y, left + WIDTH, y), fill=canvas.RULE)
        canvas.write(pen, (left - 10, y), f"{tenth / 10:.1f}", colour=canvas.QUIET, align="r")
    every = -(-len(steps) // MOST_TICKS)
    for step in steps[::every]:
        canvas.write(pen, (place(step, 0)[0], top + HEIGHT + 18), str(step), colour=canvas.QUIET, align="m")
    canvas.write(pen, (left + WIDTH / 2, top + HEIGHT + 44), axis, colour=canvas.QUIET, align="m")
    for step, value in targets:
        x, y = place(step, value)
        pen.line((x - 14, y, x + 14, y), fill=canvas.INK, width=3)

    for number, curve in enumerate(curves):
        colour = tuple(round(255 * value) for value in word_colour(number).tolist())
        known = [place(step, value) for step, value in zip(steps, curve.values.tolist(), strict=True) if value == value]
        if len(known) > 1:
            pen.line(known, fill=colour, width=LINE, joint="curve")
        for x, y in known:
            pen.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=colour)
        middle = top + HEIGHT + BOTTOM + number * ROW + ROW // 2
        pen.rectangle((left, middle - CHIP // 2, left + CHIP - 1, middle + CHIP // 2 - 1), fill=colour)
        ends = [value for value in curve.values.tolist() if value == value]
        told = f"{ends[0]:.2f} to {ends[-1]:.2f}" if ends else "in no prompt that acts"
        canvas.write(pen, (left + CHIP + 12, middle), f"{curve.label}: {told}", TEXT_SIZE, room=WIDTH - CHIP - 12)
    return to_tensor(sheet)
