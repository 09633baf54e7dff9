"""Pictures in rows on a sheet, with captions, for a person to look at."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

PAPER, INK, QUIET = (255, 255, 255), (33, 37, 43), (110, 116, 125)
MARGIN, GAP, RIM = 32, 24, 12
TITLE, HEADING, CAPTION, NOTE = 30, 23, 17, 15  # text sizes
HEAD, ROW, FOOT = TITLE + CAPTION + 44, HEADING + NOTE + 24, CAPTION + NOTE + 52


class Figure(NamedTuple):
    picture: Image.Image
    caption: str
    note: str = ""


class Strip(NamedTuple):
    """A row of figures under a heading."""

    heading: str
    note: str
    figures: list[Figure]


def sheet(title: str, subtitle: str, strips: list[Strip], height: int) -> Image.Image:
    """Strips of figures, each figure scaled to `height` pixels, under a title where there is one."""
    scaled = [[scale(figure.picture, height) for figure in strip.figures] for strip in strips]
    width = max(sum(picture.width + GAP for picture in row) - GAP for row in scaled)
    head = HEAD if title else 0
    page = Image.new("RGB", (width + 2 * MARGIN, 2 * MARGIN + head + len(strips) * (ROW + height + FOOT)), PAPER)
    pen = ImageDraw.Draw(page)
    if title:
        pen.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(TITLE))
        pen.text((MARGIN, MARGIN + TITLE + 10), subtitle, QUIET, ImageFont.load_default(CAPTION))
    y = MARGIN + head
    for strip, pictures in zip(strips, scaled, strict=True):
        pen.text((MARGIN, y), strip.heading, INK, ImageFont.load_default(HEADING))
        pen.text((MARGIN, y + HEADING + 8), strip.note, QUIET, ImageFont.load_default(NOTE))
        x, y = MARGIN, y + ROW
        for figure, picture in zip(strip.figures, pictures, strict=True):
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
    """With a narrow white margin around what is drawn."""
    content = picture.convert("L").point(lambda value: 255 * (value < 250)).getbbox()
    return ImageOps.expand(picture.crop(content), RIM, PAPER) if content else picture
