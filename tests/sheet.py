"""Pictures in rows on a sheet, with captions, for a person to look at."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, QUIET = (255, 255, 255), (33, 37, 43), (110, 116, 125)
MARGIN, GAP = 32, 24
TITLE, CAPTION, NOTE = 30, 19, 16  # text sizes
HEAD, FOOT = TITLE + CAPTION + 36, CAPTION + NOTE + 44


class Figure(NamedTuple):
    picture: Image.Image
    caption: str
    note: str = ""


def sheet(title: str, subtitle: str, rows: list[list[Figure]], height: int) -> Image.Image:
    """Rows of figures, each figure scaled to `height` pixels, under a title."""
    scaled = [[scale(figure.picture, height) for figure in row] for row in rows]
    width = max(sum(picture.width + GAP for picture in row) - GAP for row in scaled)
    page = Image.new("RGB", (width + 2 * MARGIN, 2 * MARGIN + HEAD + len(rows) * (height + FOOT)), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(TITLE))
    pen.text((MARGIN, MARGIN + TITLE + 10), subtitle, QUIET, ImageFont.load_default(CAPTION))
    y = MARGIN + HEAD
    for row, pictures in zip(rows, scaled, strict=True):
        x = MARGIN
        for figure, picture in zip(row, pictures, strict=True):
            page.paste(picture, (x, y))
            pen.text((x, y + height + 8), figure.caption, INK, ImageFont.load_default(CAPTION))
            pen.text((x, y + height + CAPTION + 13), figure.note, QUIET, ImageFont.load_default(NOTE))
            x += picture.width + GAP
        y += height + FOOT
    return page


def scale(picture: Image.Image, height: int) -> Image.Image:
    width = round(picture.width * height / picture.height)
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def trimmed(picture: Image.Image) -> Image.Image:
    """Without the white margin around what is drawn."""
    content = picture.convert("L").point(lambda value: 255 * (value < 250)).getbbox()
    return picture.crop(content) if content else picture
