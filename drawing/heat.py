"""Heat maps with a scale of numbers. Both colour scales stay readable for the colour-blind."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from . import canvas
from .canvas import GAP, MARGIN, to_picture, to_tensor

BAR_WIDTH = 22
TICK = 6
SHADE = 0.38  # how dark the darkest part of an image makes a colour that lies over it


class ColourScale(NamedTuple):
    """Colours at equal distances, from low to high. `centre`: the value that the middle colour stands for."""

    colours: tuple[str, ...]
    centre: float | None = None

    def place(self, values: Tensor, low: float, high: float) -> Tensor:
        """Where values lie on the scale, 0..1."""
        if self.centre is None:
            return ((values - low) / max(high - low, 1e-6)).clamp(0, 1)
        down = (values - self.centre) / max(self.centre - low, 1e-6)
        up = (values - self.centre) / max(high - self.centre, 1e-6)
        return (torch.where(values < self.centre, down, up).clamp(-1, 1) + 1) / 2

    def colour(self, places: Tensor) -> Tensor:
        """[...] in 0..1 -> [..., 3] in 0..1."""
        table = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in self.colours])
        stops = np.linspace(0, 1, len(table))
        channels = [np.interp(places.numpy(), stops, table[:, k]) for k in range(3)]
        return torch.from_numpy(np.stack(channels, axis=-1)).float()


SEQUENTIAL = ColourScale(("#fbf8f1", "#fbe3ae", "#f7b867", "#ea7a3f", "#c73d3d", "#861a50"))
DIVERGING = ColourScale(("#17508f", "#5f9bd1", "#c3dcef", "#f8f8f6", "#fad3ab", "#ec9347", "#a94c04"), centre=1.0)


def _ticks(colours: ColourScale, low: float, high: float) -> list[float]:
    if colours.centre is None:
        return torch.linspace(low, high, 5).tolist()
    below = [low, (low + colours.centre) / 2] if low < colours.centre else []
    above = [(colours.centre + high) / 2, high] if high > colours.centre else []
    return [*below, colours.centre, *above]


def _bar(colours: ColourScale, low: float, high: float, height: int) -> tuple[Image.Image, Tensor]:
    """The bar, high at the top, and the part of the scale [low's place, high's place] that it shows."""
    ends = colours.place(torch.tensor([low, high]), low, high)
    places = torch.linspace(ends[1], ends[0], height)
    strip = colours.colour(places)[:, None].expand(-1, BAR_WIDTH, -1)
    return to_picture(strip), ends


def heat_map(
    values: Tensor,
    image: Tensor | None = None,
    title: str | None = None,
    scale: tuple[float, float] | None = None,
    colours: ColourScale = SEQUENTIAL,
    smooth: bool = True,
    unit: str = "",
) -> Tensor:
    """A map as a picture with a scale beside it.

    values: [h, w]. image: [H, W, 3] in 0..1, shown in grey under the colours; gives the picture its proportions.
    scale: the values at the ends of the colour scale; by default the map's own. With a scale of equal ends and
    pictures of equal size, maps can be compared and stacked. smooth: bilinear, else every value is a square.
    unit is written before each number. Returns [H', W', 3] in 0..1, the longer side of the map 768 to 1024 px.
    """
    values = values.detach().float().cpu()
    low, high = scale or (float(values.min()), float(values.max()))
    if colours.centre is not None:
        low, high = min(low, colours.centre), max(high, colours.centre)
    width, height = canvas.shown_size(*(values if image is None else image).shape[:2])
    large = F.interpolate(
        values[None, None], size=(height, width), **({"mode": "bilinear"} if smooth else {"mode": "nearest-exact"})
    )[0, 0]
    picture = colours.colour(colours.place(large, low, high))
    if image is not None:
        grey = ImageOps.autocontrast(to_picture(image).convert("L"), cutoff=1)
        grey = grey.resize((width, height), Image.Resampling.LANCZOS)
        picture = picture * (1 - SHADE * (1 - to_tensor(grey)))

    ticks = _ticks(colours, low, high)
    numbers = [f"{unit}{tick:.2f}" for tick in ticks]
    right = max(canvas.text_width(number) for number in numbers)
    sheet, pen, top = canvas.new_sheet(width + GAP + BAR_WIDTH + 2 * TICK + round(right), height, title)
    sheet.paste(to_picture(picture), (MARGIN, top))
    canvas.frame(pen, MARGIN, top, width, height)

    left = MARGIN + width + GAP
    bar, ends = _bar(colours, low, high, height)
    sheet.paste(bar, (left, top))
    canvas.frame(pen, left, top, BAR_WIDTH, height)
    for tick, number in zip(ticks, numbers, strict=True):
        share = (colours.place(torch.tensor(tick), low, high) - ends[0]) / max(float(ends[1] - ends[0]), 1e-6)
        y = top + round(float(1 - share) * (height - 1))
        pen.line((left + BAR_WIDTH, y, left + BAR_WIDTH + TICK, y), fill=canvas.QUIET)
        inside = min(max(y, top + canvas.TEXT_SIZE * 0.36), top + height - canvas.TEXT_SIZE * 0.36)
        canvas.write(pen, (left + BAR_WIDTH + 2 * TICK, inside), number, colour=canvas.QUIET)
    return to_tensor(sheet)
