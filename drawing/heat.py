"""Heat maps with a scale of numbers. Both colour scales stay readable for the colour-blind."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from . import canvas
from .canvas import GAP, MARGIN, TEXT_SIZE, to_picture, to_tensor

BAR_WIDTH = 22
TICK = 6
TICK_DISTANCE = 44  # pixels; of two numbers that would be closer, the less important one is left out
RATIOS = (0.2, 0.5, 0.8, 0.9, 1.1, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
FLOOR = 0.1  # the smallest ratio on a scale of ratios
SMALL = 1e-6
SHADE = 0.3  # how dark the darkest part of an image makes a colour that lies over it


class ColourScale(NamedTuple):
    """Colours at equal distances, from low to high.

    With a `centre`, a scale of ratios: the middle colour stands for the centre, and equal factors above and below it
    get equally strong colours. Ratios under `FLOOR` look like it.
    """

    colours: tuple[str, ...]
    centre: float | None = None

    def ends(self, low: float, high: float) -> tuple[float, float]:
        """The ends of the scale drawn for values from low to high."""
        if self.centre is None:
            return low, high
        return max(min(low, self.centre), FLOOR * self.centre), max(high, self.centre)

    def place(self, values: Tensor, low: float, high: float) -> Tensor:
        """Where values lie on the scale, 0..1."""
        if self.centre is None:
            return ((values - low) / max(high - low, SMALL)).clamp(0, 1)
        reach = max(math.log(high / self.centre), math.log(self.centre / low), SMALL)
        return (0.5 + 0.5 * (values.clamp(low, high) / self.centre).log() / reach).clamp(0, 1)

    def colour(self, places: Tensor) -> Tensor:
        """[...] in 0..1 -> [..., 3] in 0..1."""
        table = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in self.colours])
        stops = np.linspace(0, 1, len(table))
        channels = [np.interp(places.numpy(), stops, table[:, k]) for k in range(3)]
        return torch.from_numpy(np.stack(channels, axis=-1)).float()


SEQUENTIAL = ColourScale(("#fbf8f1", "#fbe3ae", "#f7b867", "#ea7a3f", "#c73d3d", "#861a50"))
DIVERGING = ColourScale(("#17508f", "#5f9bd1", "#c3dcef", "#f8f8f6", "#fad3ab", "#ec9347", "#a94c04"), centre=1.0)


def _ticks(colours: ColourScale, low: float, high: float, height: int) -> list[tuple[float, int]]:
    """Values to write beside a bar from low to high, and where on it, in pixels from its top."""
    first, last = colours.place(torch.tensor([low, high]), low, high).tolist()
    if colours.centre is None:
        wanted = torch.linspace(low, high, 5).tolist()
    else:
        wanted = [colours.centre, high, low, *(r * colours.centre for r in RATIOS if low < r * colours.centre < high)]
    ticks: list[tuple[float, int]] = []
    for value in wanted:
        share = (colours.place(torch.tensor(value), low, high).item() - first) / max(last - first, SMALL)
        y = round((1 - share) * (height - 1))
        if all(abs(y - other) >= TICK_DISTANCE for _, other in ticks):
            ticks.append((value, y))
    return ticks


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
    low, high = colours.ends(*(scale or (float(values.min()), float(values.max()))))
    width, height = canvas.shown_size(*(values if image is None else image).shape[:2])
    mode = "bilinear" if smooth else "nearest-exact"
    large = F.interpolate(values[None, None], size=(height, width), mode=mode)[0, 0]
    picture = colours.colour(colours.place(large, low, high))
    if image is not None:
        grey = ImageOps.autocontrast(to_picture(image).convert("L"), cutoff=1)
        grey = grey.resize((width, height), Image.Resampling.LANCZOS)
        picture = picture * (1 - SHADE * (1 - to_tensor(grey)))

    ticks = [(f"{unit}{value:.2f}", y) for value, y in _ticks(colours, low, high, height)]
    number_width = round(max(canvas.text_width(number) for number, _ in ticks))
    sheet, pen, top = canvas.new_sheet(width + GAP + BAR_WIDTH + 2 * TICK + number_width, height, title)
    sheet.paste(to_picture(picture), (MARGIN, top))
    canvas.frame(pen, MARGIN, top, width, height)

    left = MARGIN + width + GAP
    first, last = colours.place(torch.tensor([low, high]), low, high).tolist()
    bar = colours.colour(torch.linspace(last, first, height))[:, None].expand(-1, BAR_WIDTH, -1)
    sheet.paste(to_picture(bar), (left, top))
    canvas.frame(pen, left, top, BAR_WIDTH, height)
    for number, y in ticks:
        pen.line((left + BAR_WIDTH, top + y, left + BAR_WIDTH + TICK, top + y), fill=canvas.QUIET)
        middle = min(max(y, TEXT_SIZE // 3), height - TEXT_SIZE // 3)
        canvas.write(pen, (left + BAR_WIDTH + 2 * TICK, top + middle), number, colour=canvas.QUIET)
    return to_tensor(sheet)
