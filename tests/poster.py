"""A workflow's thumbnail in words, where nobody has seen what the model draws."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont
from sheet import PAPER

BLUE = (47, 109, 181)


def poster(title: str, size: tuple[int, int]) -> Image.Image:
    """The model, and what the workflow does with it. title: "what (model)"."""
    card = Image.new("RGB", size, BLUE)
    pen = ImageDraw.Draw(card)
    what, model = title.removesuffix(")").split(" (")
    middle = size[0] // 2
    pen.text((middle, size[1] // 2), model, PAPER, ImageFont.load_default(80), anchor="ms")
    pen.text((middle, size[1] // 2 + 40), what, PAPER, ImageFont.load_default(40), anchor="mt")
    return card
