"""docs/models.md says what the code does."""

from __future__ import annotations

import figures
import model_table


def test_the_page_has_the_tables_that_the_code_gives():
    for shown, head, rows in zip(figures.tables("models.md"), model_table.HEADS, model_table.tables(), strict=True):
        assert shown == {row[0]: dict(zip(head, row, strict=True)) for row in rows}, "run python -m model_table"


def test_readme_has_the_short_table():
    rows = model_table.short(model_table.tables()[0])
    wanted = {row[0]: dict(zip(model_table.SHORT_HEAD, row, strict=True)) for row in rows}
    assert wanted in figures.tables(model_table.SHORT_PAGE), "run python -m model_table"


def test_every_family_is_tested():
    (families, *_) = figures.tables("models.md")
    assert not [name for name, row in families.items() if row["tested as"] == "nothing"]
