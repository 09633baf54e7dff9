"""A workflow's thumbnail in words, where nobody has seen what the model draws."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont
from sheet import INK, PAPER, QUIET

MARGIN, GAP, PAD = 48, 16, 18
ROW = 60  # of a node
NODE = (47, 109, 181)


def poster(title: str, nodes: list[str], size: tuple[int, int]) -> Image.Image:
    """The model, what the workflow does with it, and its nodes, none of them cut. title: "what (model)"."""
    card = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(card)
    what, model = title.removesuffix(")").split(" (")
    pen.text((MARGIN, MARGIN), model, INK, ImageFont.load_default(56))
    pen.text((MARGIN, MARGIN + 76), what, QUIET, ImageFont.load_default(30))
    text = ImageFont.load_default(28)
    rows = in_rows([(node, int(pen.textlength(node, text)) + 2 * PAD) for node in nodes], size[0] - 2 * MARGIN)
    y = size[1] - MARGIN - len(rows) * (ROW + GAP) + GAP
    for row in rows:
        x = MARGIN
        for node, width in row:
            pen.rounded_rectangle((x, y, x + width, y + ROW), 12, NODE)
            pen.text((x + width // 2, y + ROW // 2), node, PAPER, text, anchor="mm")
            x += width + GAP
        y += ROW + GAP
    return card


def in_rows(boxes: list[tuple[str, int]], width: int) -> list[list[tuple[str, int]]]:
    """As many boxes on each row as fit, in their order. boxes: text and width of each."""
    rows, left = [], 0
    for box in boxes:
        if not rows or box[1] > left:
            rows.append([])
            left = width
        rows[-1].append(box)
        left -= box[1] + GAP
    return rows
