"""Tables of measured figures in docs/*.md. What measures writes them; tests hold what we claim against them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from paths import ROOT

DOCS = ROOT / "docs"
TABLE = re.compile(r"(?m)^\|(.*)\|\n\|(?:-+\|)+\n((?:\|.*\|\n)*)")


def line(cells: Iterable) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def write(page: str, head: list[str], rows: Iterable[list]) -> None:
    """Put new rows into the table of that page whose head is this one. ValueError where there is none."""
    path = DOCS / page
    text = path.read_text(encoding="utf-8")
    new = line(head) + "|---" * len(head) + "|\n" + "".join(map(line, rows))
    found = [table for table in TABLE.finditer(text) if cells(table[1]) == head]
    if len(found) != 1:
        raise ValueError(f"docs/{page} has {len(found)} tables with the head {line(head)}")
    path.write_text(text[: found[0].start()] + new + text[found[0].end() :], encoding="utf-8", newline="\n")


def tables(page: str) -> list[dict[str, dict[str, str]]]:
    """Every table of a page, as row -> column -> cell."""
    found = TABLE.finditer((DOCS / page).read_text(encoding="utf-8"))
    return [
        {row[0]: dict(zip(cells(table[1]), row, strict=True)) for row in map(cells, table[2].splitlines())}
        for table in found
    ]
