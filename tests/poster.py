"""A workflow's graph as a picture, where nobody has seen what the model draws."""

from __future__ import annotations

from comfy_client import Graph
from PIL import Image, ImageDraw, ImageFont
from sheet import INK, PAPER, QUIET
from workflow_pages import Page

from semantic_guidance.drawing.text import shortened

MARGIN, GAP = 24, 26
HEAD, BOX, STEP = 96, 34, 43
OURS, OTHERS, LINE = (47, 109, 181), (233, 236, 240), (176, 184, 193)
OUR_NODES = "SemanticGuidance"


def poster(page: Page, graph: Graph, names: dict[str, str], size: tuple[int, int]) -> Image.Image:
    """The groups as columns, our nodes in blue, the links behind them. names: of each class, as users see them."""
    card = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(card)
    title, text = ImageFont.load_default(30), ImageFont.load_default(11)
    pen.text((MARGIN, MARGIN), page.title, INK, title)
    ours = [names[node["class_type"]] for node in graph.values() if node["class_type"].startswith(OUR_NODES)]
    pen.text((MARGIN, MARGIN + 40), ", ".join(dict.fromkeys(ours)), QUIET, ImageFont.load_default(15))

    columns = [group.nodes for group in page.groups]
    width = (size[0] - 2 * MARGIN - GAP * (len(columns) - 1)) // len(columns)
    places = {
        name: (MARGIN + number * (width + GAP), HEAD + MARGIN + row * STEP)
        for number, nodes in enumerate(columns) for row, name in enumerate(nodes)
    }  # fmt: skip
    for name, node in graph.items():
        for value in node["inputs"].values():
            if isinstance(value, list):
                (x, y), (left, top) = places[value[0]], places[name]
                start, end = (x + width, y + BOX // 2), (left, top + BOX // 2)
                if left == x:  # around the boxes between
                    end = (x + width, end[1])
                    pen.line([start, (start[0] + 7, start[1]), (end[0] + 7, end[1]), end], LINE, 2)
                else:
                    pen.line([start, end], LINE, 2)
    for name, (x, y) in places.items():
        mine = graph[name]["class_type"].startswith(OUR_NODES)
        pen.rounded_rectangle((x, y, x + width, y + BOX), 7, OURS if mine else OTHERS)
        label = shortened(names[graph[name]["class_type"]].split(" (")[0], text, width - 8)
        pen.text((x + width // 2, y + BOX // 2), label, PAPER if mine else INK, text, anchor="mm")
    return card
