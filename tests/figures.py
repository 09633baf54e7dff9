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
    text, found = _table(page, head)
    new = line(head) + "|---" * len(head) + "|\n" + "".join(map(line, rows))
    changed = text[: found.start()] + new + text[found.end() :]
    (DOCS / page).write_text(changed, encoding="utf-8", newline="\n")


def merge(page: str, head: list[str], rows: Iterable[list]) -> None:
    """The same; rows of other names stay."""
    old = map(cells, _table(page, head)[1][2].splitlines())
    write(page, head, {row[0]: row for row in (*old, *rows)}.values())


def _table(page: str, head: list[str]) -> tuple[str, re.Match]:
    text = (DOCS / page).read_text(encoding="utf-8")
    found = [table for table in TABLE.finditer(text) if cells(table[1]) == head]
    if len(found) != 1:
        raise ValueError(f"docs/{page} has {len(found)} tables with the head {line(head)}")
    return text, found[0]


def titled(page: str) -> dict[str, dict[str, dict[str, str]]]:
    """The tables of a page that have rows, by the first cell of their heads."""
    return {next(iter(next(iter(rows.values())))): rows for rows in tables(page) if rows}


def tables(page: str) -> list[dict[str, dict[str, str]]]:
    """Every table of a page, as row -> column -> cell."""
    found = TABLE.finditer((DOCS / page).read_text(encoding="utf-8"))
    return [
        {row[0]: dict(zip(cells(table[1]), row, strict=True)) for row in map(cells, table[2].splitlines())}
        for table in found
    ]
