"""What we say was measured is what the tables of docs/ say. See tests/figures.py."""

from __future__ import annotations

import re
from collections.abc import Iterator

import demo_rows
import figures
import pytest
import translated
import translations
from paths import ROOT

FIGURE = re.compile(r"\d+(?:\.\d+)? %|\d+ of \d+")


def cells() -> Iterator[str]:
    for page in sorted(figures.DOCS.glob("*.md")):
        for table in figures.tables(page.name):
            for row in table.values():
                for column, cell in row.items():
                    yield re.sub(r"(\d+)/(\d+)", r"\1 of \2", cell)
                    if column.endswith(", %"):
                        yield re.sub(r"^(\d+\.\d+).*", r"\1 %", cell)


TABLES = "\n".join(cells())
HELP = [translated.page(node_id, "en") for node_id in translations.texts("en")]
WORD_MASK = translated.page("SemanticGuidanceWordMask", "en")


def paragraphs(text: str) -> list[str]:
    """Those that speak of Sticker World, with its figures on one line. Tables are what a node can be set to."""
    found = re.sub(r"(?m)^\|.*\n", "", text).split("\n\n")
    return [" ".join(paragraph.split()) for paragraph in found if "Sticker World" in paragraph]


@pytest.mark.parametrize("path", [ROOT / "README.md", *(page for page in HELP if page != WORD_MASK)],
                         ids=lambda path: path.stem)
def test_figures_of_sticker_world_stand_in_a_table(path):
    for paragraph in paragraphs(path.read_text(encoding="utf-8")):
        for figure in FIGURE.findall(paragraph):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", TABLES), figure


def test_node_texts_name_figures_that_stand_in_a_table():
    for node in translations.texts("en").values():
        said = [node["description"], *(entry["tooltip"] for entry in node["inputs"].values())]
        for figure in FIGURE.findall(" ".join(text for text in said if "Sticker World" in text)):
            assert figure in TABLES


def test_the_help_of_word_mask_gives_the_figures_of_its_defaults():
    """In this order; the translations are held against English by test_locales.py."""
    accuracy = figures.tables("word-mask-accuracy.md")[0]
    iou = {row.removeprefix("IoU, hard, threshold "): columns for row, columns in accuracy.items() if "hard" in row}
    best = {column: max(iou, key=lambda row: iou[row][column]) for column in ("singles, noun", "pairs, noun")}
    assert set(best.values()) == {"0.5"}  # the node's default
    shown = [iou["0.5"][column] for column in ("singles, noun", "pairs, noun")]
    pointing = [accuracy["pointing"][column].split()[0] for column in ("singles, noun", "pairs, noun")]
    shown += [f"{100 * float(share):.1f}" for share in pointing]
    shown += [iou["0.5"]["pairs, phrase"], "0.5"]
    (said,) = paragraphs(WORD_MASK.read_text(encoding="utf-8"))
    assert re.findall(r"\d+\.\d+", said) == re.findall(r"\d+\.\d+", " ".join(shown))


@pytest.mark.parametrize("row", demo_rows.ROWS.values(), ids=demo_rows.ROWS)
def test_the_demo_names_figures_that_stand_in_a_table(row):
    for figure in re.findall(r"\d+\.\d+", row.measured):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", TABLES), figure


def test_rows_measured_anew_take_the_place_of_those_with_their_names(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "DOCS", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("Before\n\n| way | share | share |\n|---|---|---|\n| a | 1 | 2 |\n| b | 3 | 4 |\n\nAfter\n")
    figures.merge("page.md", ["way", "share", "share"], [["b", "5", "6"], ["c", "7", "8"]])
    assert page.read_text() == (
        "Before\n\n| way | share | share |\n|---|---|---|\n| a | 1 | 2 |\n| b | 5 | 6 |\n| c | 7 | 8 |\n\nAfter\n"
    )
    with pytest.raises(ValueError, match="0 tables"):
        figures.merge("page.md", ["way", "other"], [])
