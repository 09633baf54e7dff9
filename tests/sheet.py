"""Pictures side by side on a sheet, with captions, for a person to look at."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (250, 249, 246), (32, 34, 40), (112, 116, 126)
MARGIN, GAP, TITLE, CAPTION = 32, 24, 30, 19


class Figure(NamedTuple):
    picture: Image.Image
    caption: str
    note: str = ""


def sheet(title: str, figures: list[Figure], columns: int, side: int = 448, subtitle: str = "") -> Image.Image:
    """Figures in rows of `columns`, each scaled to a width of `side` pixels, under a title."""
    scaled = [enlarge(figure.picture, side) for figure in figures]
    height = max(picture.height for picture in scaled)
    text = CAPTION * 3 if any(figure.note for figure in figures) else CAPTION * 2
    rows = -(-len(figures) // columns)
    head = MARGIN + TITLE + (CAPTION + 14 if subtitle else 0) + GAP
    size = (2 * MARGIN + columns * side + (columns - 1) * GAP, head + rows * (height + text + GAP) + MARGIN - GAP)
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 6), title, INK, font(TITLE))
    draw.text((MARGIN, MARGIN + TITLE + 8), subtitle, FAINT, font(CAPTION))
    for index, (figure, picture) in enumerate(zip(figures, scaled, strict=True)):
        x = MARGIN + index % columns * (side + GAP)
        y = head + index // columns * (height + text + GAP)
        page.paste(picture, (x, y))
        draw.text((x, y + height + 8), figure.caption, INK, font(CAPTION))
        draw.text((x, y + height + 8 + CAPTION + 6), figure.note, FAINT, font(CAPTION - 3))
    return page


def enlarge(picture: Image.Image, side: int) -> Image.Image:
    height = round(picture.height * side / picture.width)
    return picture.convert("RGB").resize((side, height), Image.Resampling.LANCZOS)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
