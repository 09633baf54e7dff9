"""Regions as colours over an image, with a legend."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from . import canvas
from .canvas import GAP, MARGIN, TEXT_SIZE, to_picture, to_tensor
from .palette import word_colour

BACKGROUND = 0.9  # grey where there is no image
BORDER_STRENGTH = 0.85
LABEL_GRID = 128  # cells along the longer side, in which room for a label is sought
ROW = 36
CHIP = 22
INDENT = CHIP + 12
LONGEST_LABEL = 200
NUMBERS = (84, 76)  # widths of the columns "share" and "rate"
COLUMN_GAP = 36
FEWEST_ROWS = 6  # before the legend gets another column


class LegendEntry(NamedTuple):
    """A word: its number in the palette (None for "no word"), share of the image in 0..1, and mean rate in it."""

    label: str
    colour: int | None
    share: float
    rate: float | None  # None where the word has no share


def borders(owner: Tensor) -> Tensor:
    """The pixels at which one region meets another. [H, W] -> bool [H, W]."""
    edge = torch.zeros(owner.shape, dtype=torch.bool)
    across, down = owner[:, 1:] != owner[:, :-1], owner[1:] != owner[:-1]
    for side in (slice(1, None), slice(None, -1)):
        edge[:, side] |= across
        edge[side] |= down
    return edge


def widest_place(region: Tensor) -> tuple[int, int, int]:
    """Centre and half width of the biggest square inside a region: bool [H, W] -> (x, y, half width), in pixels."""
    step = max(region.shape) / LABEL_GRID
    size = [max(1, round(side / step)) for side in region.shape]
    left = F.pad(F.interpolate(region[None, None].float(), size=size, mode="nearest-exact"), (1, 1, 1, 1))
    depth = torch.zeros_like(left)
    while left.any():
        depth += left
        left = -F.max_pool2d(-left, 3, 1, 1)
    inside = (depth == depth.max()).squeeze().nonzero().float()
    y, x = inside[(inside - inside.mean(dim=0)).norm(dim=1).argmin()] - 0.5
    return round(float(x) * step), round(float(y) * step), round(float(depth.max()) * step)


def _label_regions(picture: Image.Image, owner: Tensor, entries: list[LegendEntry]) -> None:
    """Write each word into the widest place of its region, where it fits."""
    pen = ImageDraw.Draw(picture)
    for index, entry in enumerate(entries):
        if entry.colour is None or not entry.share:
            continue
        x, y, half = widest_place(owner == index)
        if half >= TEXT_SIZE and canvas.text_width(entry.label) <= 2 * half:
            canvas.write(pen, (x, y), entry.label, align="m", halo=canvas.PAPER)


def overlay(owner: Tensor, colours: Tensor, image: Tensor | None, opacity: float) -> Tensor:
    """Regions in colour over an image, with white lines between them; over plain grey if there is no image.

    owner: [H', W'], index into colours [n, 3]. image: [H, W, 3] in 0..1; it loses its own colours as the regions
    gain theirs. Returns [H', W', 3], the size of `owner`.
    """
    height, width = owner.shape
    if image is None:
        under = torch.full((height, width, 3), BACKGROUND)
    else:
        picture = to_picture(image).resize((width, height), Image.Resampling.LANCZOS)
        under = torch.lerp(to_tensor(picture), to_tensor(picture.convert("L")), min(1.0, 2 * opacity))
    mixed = torch.lerp(under, colours[owner], opacity)
    line = borders(owner)[..., None] * BORDER_STRENGTH * min(1.0, 2 * opacity)
    return torch.lerp(mixed, torch.ones(()), line)


def _legend(pen: ImageDraw.ImageDraw, entries: list[LegendEntry], left: int, top: int, label_width: int) -> None:
    share_right = left + INDENT + label_width + NUMBERS[0]
    rate_right = share_right + NUMBERS[1]
    middle = top + TEXT_SIZE // 2
    for text, right in (("share", share_right), ("rate", rate_right)):
        canvas.write(pen, (right, middle), text, TEXT_SIZE - 4, canvas.QUIET, "r")
    pen.line((left, top + ROW - 6, rate_right, top + ROW - 6), fill=canvas.RULE)
    for row, entry in enumerate(entries, start=1):
        middle = top + row * ROW + ROW // 2 - 2
        ink = canvas.INK if entry.share else canvas.QUIET
        chip = tuple(round(255 * value) for value in word_colour(entry.colour).tolist())
        pen.rectangle((left, middle - CHIP // 2, left + CHIP - 1, middle + CHIP // 2 - 1), fill=chip)
        canvas.write(pen, (left + INDENT, middle), entry.label, colour=ink, room=label_width)
        canvas.write(pen, (share_right, middle), f"{100 * entry.share:.1f} %", colour=ink, align="r")
        rate = "-" if entry.rate is None else f"x{entry.rate:.2f}"
        canvas.write(pen, (rate_right, middle), rate, colour=ink, align="r")


def region_picture(
    owner: Tensor, entries: list[LegendEntry], image: Tensor | None = None, opacity: float = 0.55,
    title: str | None = None,
) -> Tensor:
    """Regions over an image or plain grey, with a legend. Returns [H', W', 3] in 0..1.

    owner: [h, w], index into entries. image: [H, W, 3] in 0..1; gives the picture its proportions. Pictures with
    the same labels, and images of the same size, have the same size; the map's longer side is 768 to 1024 px.
    """
    colours = torch.stack([word_colour(entry.colour) for entry in entries])
    width, height = canvas.shown_size(*(owner if image is None else image).shape[:2])
    owner = F.interpolate(owner[None, None].float(), size=(height, width), mode="nearest-exact")[0, 0].long()
    picture = to_picture(overlay(owner, colours, image, opacity))
    _label_regions(picture, owner, entries)

    rows = max(height // ROW - 1, FEWEST_ROWS)
    columns = [entries[first : first + rows] for first in range(0, len(entries), rows)]
    label_width = min(LONGEST_LABEL, round(max(canvas.text_width(entry.label) for entry in entries)))
    column_width = INDENT + label_width + sum(NUMBERS)
    legend_width = len(columns) * (column_width + COLUMN_GAP) - COLUMN_GAP
    legend_height = (1 + min(rows, len(entries))) * ROW
    sheet, pen, top = canvas.new_sheet(width + GAP + legend_width, max(height, legend_height), title)
    sheet.paste(picture, (MARGIN, top))
    canvas.frame(pen, MARGIN, top, width, height)
    for number, column in enumerate(columns):
        _legend(pen, column, MARGIN + width + GAP + number * (column_width + COLUMN_GAP), top, label_width)
    return to_tensor(sheet)
