"""The sheet that all pictures are drawn on: sizes, colours, and the ways between tensors and PIL."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .text import shortened, written

PAPER = (255, 255, 255)
INK = (33, 37, 43)
QUIET = (110, 116, 125)
RULE = (205, 208, 212)

MARGIN = 28
GAP = 28  # between the picture and what explains it
TITLE_SIZE = 24
TITLE_HEIGHT = 48
TEXT_SIZE = 20

SCREEN = 16 / 9  # its width to its height

SHORTEST, LONGEST = 768, 1024  # the longer side of a picture, in pixels


def shown_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) at which a picture of this size is shown: small ones are enlarged, big ones reduced."""
    side = max(height, width)
    factor = min(max(side, SHORTEST), LONGEST) / side
    return max(round(width * factor), 1), max(round(height * factor), 1)


def to_picture(image: Tensor) -> Image.Image:
    """[H, W, 3 or more] in 0..1 -> RGB."""
    values = image[..., :3].detach().float().cpu().clamp(0, 1).mul(255).round()
    return Image.fromarray(values.to(torch.uint8).numpy())


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB -> [H, W, 3] in 0..1."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255


def tiled(pictures: Tensor) -> Tensor:
    """Pictures [n, h, w, ...] row by row in one, [rows * h, columns * w, ...], about as wide as a screen."""
    count, height, width = pictures.shape[:3]
    columns = min(count, max(1, round(math.sqrt(count * height / width * SCREEN))))
    rows = -(-count // columns)
    sheet = pictures.new_zeros((rows * columns, *pictures.shape[1:]))
    sheet[:count] = pictures
    return sheet.unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)


def reduced(picture: Tensor, most: int) -> Tensor:
    """A picture [H, W, 3] of at most `most` bytes: as it is, or smaller in the same proportions."""
    if picture.nbytes <= most:
        return picture
    factor = math.sqrt(most / picture.nbytes)
    height, width = (max(int(side * factor), 1) for side in picture.shape[:2])
    return to_tensor(to_picture(picture).resize((width, height), Image.Resampling.LANCZOS))


def new_sheet(width: int, height: int, title: str | None) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """A sheet with room for a `width` x `height` content; also its pen, and the content's top."""
    top = MARGIN + (TITLE_HEIGHT if title else 0)
    sheet = Image.new("RGB", (width + 2 * MARGIN, top + height + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        write(pen, (MARGIN, MARGIN + TITLE_SIZE // 2), title, TITLE_SIZE, INK, room=width)
    return sheet, pen, top


def write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int = TEXT_SIZE,
    colour: tuple[int, int, int] = INK, align: str = "l", room: float = float("inf"),
    halo: tuple[int, int, int] | None = None,
) -> None:
    """One line of text, centred vertically on `place`; align is PIL's "l", "m" or "r"."""
    text, font = written(text, size)
    x, y = place
    baseline = y + 0.36 * size  # half the height of capitals
    pen.text(
        (round(x), round(baseline)), shortened(text, font, room), fill=colour, font=font, anchor=f"{align}s",
        stroke_width=3 if halo else 0, stroke_fill=halo,
    )


def text_width(text: str, size: int = TEXT_SIZE) -> float:
    text, font = written(text, size)
    return font.getlength(text)


def frame(pen: ImageDraw.ImageDraw, left: int, top: int, width: int, height: int) -> None:
    """A hairline just outside of a box."""
    pen.rectangle((left - 1, top - 1, left + width, top + height), outline=RULE)
