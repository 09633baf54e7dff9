"""English texts and the tables of the help pages are what the nodes say: `python -m translations` writes them."""

from __future__ import annotations

import pytest
import translated
import translations

SCHEMAS = translations.schemas()
PAGES = [
    (node_id, language) for node_id in SCHEMAS for language in translations.LANGUAGES
    if language == "en" or translated.page(node_id, language).is_file()
]  # fmt: skip


def test_english_is_what_the_nodes_say():
    assert translations.texts("en") == {node_id: translations.english(schema) for node_id, schema in SCHEMAS.items()}
    assert translations.categories("en") == translations.english_categories(SCHEMAS)


@pytest.mark.parametrize(("node_id", "language"), PAGES)
def test_help_tables_have_every_input_and_output(node_id, language):
    """With its tooltip, type, range and default."""
    page = translated.page(node_id, language).read_text(encoding="utf-8")
    tables = [table[2] for table in translations.ROWS.finditer(page)]
    inputs, outputs = (table.splitlines() for table in tables[:2])
    schema = SCHEMAS[node_id]
    node = translations.filled(translations.texts(language), translations.texts("en"))[node_id]
    assert (len(inputs), len(outputs)) == (len(schema.inputs), len(schema.outputs))
    assert page == translations.with_tables(page, schema, node, translations.CELLS[language])


def test_ranges_and_defaults_are_as_a_user_meets_them():
    inputs = {entry.id: entry for entry in SCHEMAS["SemanticGuidanceWordMask"].inputs}
    assert translations.span(inputs["noise_level"], "default") == "0.0 - 1.0; default 0.2"
    assert translations.span(inputs["mask"], "default") == "`soft`, `hard`; default `soft`"
    assert translations.span(inputs["words"], "default") == translations.span(inputs["model"], "default") == ""
    assert translations.span(inputs["seed"], "default") == "0 - 18446744073709551615; default 0"
    momentum = SCHEMAS["SemanticGuidanceSEGA"].inputs[-1]
    assert translations.span(momentum, "Vorgabe") == "Vorgabe `true`"
