"""The thumbnails of the example workflows: `python -m thumbnails [NAME ...]`.

Pictures from their runs on Sticker World; where it cannot stand for the model, what they do in words.
"""

from __future__ import annotations

import argparse
import io

import workflow_files
from comfy_client import ComfyClient
from comfy_server import comfy_server
from paths import ROOT
from PIL import Image
from poster import poster
from sheet import scale, trimmed
from workflow_pages import PAGES, Page

SIZE = (720, 480)
SAVED = (270, 180)  # about as wide as the front end shows them
QUALITY = 50
MARGIN = 24
GAP = 12  # between pictures of 128 pixels


def pictures(client: ComfyClient, name: str, page: Page) -> list[Image.Image]:
    outputs = client.run(workflow_files.on_sticker_world(workflow_files.load(name)))
    return [Image.open(io.BytesIO(client.images(outputs, node)[0])).convert("RGB") for node in page.shows]


def stacked(shown: list[Image.Image]) -> Image.Image:
    """Pictures of one size, one below the other."""
    width, height = shown[0].size
    column = Image.new("RGB", (width, len(shown) * (height + GAP) - GAP), "white")
    for number, picture in enumerate(shown):
        column.paste(picture, (0, number * (height + GAP)))
    return column


def side_by_side(shown: list[Image.Image]) -> Image.Image:
    """The pictures at one height, as large as fits, in the middle of a white card. Of three, two share a column."""
    shown = [trimmed(picture) if picture.width > 512 else picture for picture in shown]
    if len(shown) == 3:
        shown = [stacked(shown[:2]), shown[2]]
    width = sum(picture.width / picture.height for picture in shown)
    height = min((SIZE[0] - MARGIN * (len(shown) + 1)) / width, SIZE[1] - 2 * MARGIN)
    card = Image.new("RGB", SIZE, "white")
    scaled = [scale(picture, int(height)) for picture in shown]
    x = (SIZE[0] - sum(picture.width for picture in scaled) - MARGIN * (len(scaled) - 1)) // 2
    for picture in scaled:
        card.paste(picture, (x, (SIZE[1] - picture.height) // 2))
        x += picture.width + MARGIN
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of tests/workflows; all by default")
    names = parser.parse_args().names or list(PAGES)
    with comfy_server() as client:
        for name in names:
            page = PAGES[name]
            path = ROOT / "workflows" / f"{page.title}.jpg"
            card = side_by_side(pictures(client, name, page)) if page.shows else poster(page.title, SIZE)
            card.resize(SAVED, Image.Resampling.LANCZOS).save(path, quality=QUALITY, optimize=True)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
