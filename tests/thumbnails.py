"""The thumbnails of the example workflows: `python -m thumbnails [NAME ...]`.

Pictures from their runs on Sticker World; where it cannot stand for the model, our nodes by name.
"""

from __future__ import annotations

import argparse
import io

import workflow_files
from comfy_client import ComfyClient, Graph
from comfy_server import comfy_server
from paths import ROOT
from PIL import Image
from poster import poster
from sheet import scale, trimmed
from workflow_pages import PAGES, Page

SIZE = (720, 480)
SAVED = (300, 200)  # as wide as the front end shows them
QUALITY = 60
MARGIN = 24


def pictures(client: ComfyClient, name: str, page: Page) -> list[Image.Image]:
    outputs = client.run(workflow_files.on_sticker_world(workflow_files.load(name)))
    return [Image.open(io.BytesIO(client.images(outputs, node)[0])).convert("RGB") for node in page.shows]


def side_by_side(shown: list[Image.Image]) -> Image.Image:
    """The pictures at one height, as large as fits, in the middle of a white card."""
    shown = [trimmed(picture) if picture.width > 512 else picture for picture in shown]
    width = sum(picture.width / picture.height for picture in shown)
    height = min((SIZE[0] - MARGIN * (len(shown) + 1)) / width, SIZE[1] - 2 * MARGIN)
    card = Image.new("RGB", SIZE, "white")
    scaled = [scale(picture, int(height)) for picture in shown]
    x = (SIZE[0] - sum(picture.width for picture in scaled) - MARGIN * (len(scaled) - 1)) // 2
    for picture in scaled:
        card.paste(picture, (x, (SIZE[1] - picture.height) // 2))
        x += picture.width + MARGIN
    return card


def our_nodes(graph: Graph, names: dict[str, str]) -> list[str]:
    """Of the pack, each once, but for prompts. names: of each class, as users see them, up to a parenthesis."""
    kinds = dict.fromkeys(node["class_type"] for node in graph.values())
    shown = [kind for kind in kinds if kind.startswith("SemanticGuidance") and kind != "SemanticGuidancePrompt"]
    return [names[kind].split(" (")[0] for kind in shown]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of tests/workflows; all by default")
    names = parser.parse_args().names or list(PAGES)
    with comfy_server() as client:
        shown = {key: node["display_name"] or key for key, node in client.object_info().items()}
        for name in names:
            page = PAGES[name]
            path = ROOT / "workflows" / f"{page.title}.jpg"
            if page.shows:
                card = side_by_side(pictures(client, name, page))
            else:
                card = poster(page.title, our_nodes(workflow_files.load(name), shown), SIZE)
            card.resize(SAVED, Image.Resampling.LANCZOS).save(path, quality=QUALITY, optimize=True, progressive=True)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
