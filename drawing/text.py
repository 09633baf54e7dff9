"""Words in PIL's own font; in a font of the system where that lacks a letter."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

SYSTEM_FONTS = (
    "DejaVuSans.ttf", "segoeui.ttf", "Arial.ttf",
    "NotoSansCJK-Regular.ttc", "msyh.ttc", "Hiragino Sans GB.ttc", "PingFang.ttc",
)
NO_LETTER = "\uffff"
ELLIPSIS = "..."


@lru_cache(maxsize=32)
def own_font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


@lru_cache(maxsize=32)
def _system_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    found = []
    for name in SYSTEM_FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            pass
    return tuple(found)


def _has(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = bytes(font.getmask(NO_LETTER))
    return all(bytes(font.getmask(letter)) != missing for letter in text if not letter.isspace())


def written(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text and a font that can show it. Where no font at hand can, letters beyond ASCII become codes: \\u732b."""
    if text.isascii():
        return text, own_font(size)
    for font in _system_fonts(size):
        if _has(font, text):
            return text, font
    return text.encode("ascii", "backslashreplace").decode(), own_font(size)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of its beginning as fits into `width` pixels, with dots."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + ELLIPSIS) > width:
        text = text[:-1]
    return text + ELLIPSIS
