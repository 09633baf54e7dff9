"""English texts and the tables of the help pages are what the nodes say: `python -m locales` writes them."""

from __future__ import annotations

import locales
import pytest

SCHEMAS = locales.schemas()


def test_english_is_what_the_nodes_say():
    assert locales.texts("en") == {node_id: locales.english(schema) for node_id, schema in SCHEMAS.items()}
    assert locales.categories("en") == locales.english_categories(SCHEMAS)


@pytest.mark.parametrize("language", locales.LANGUAGES)
@pytest.mark.parametrize("node_id", SCHEMAS)
def test_help_tables_have_every_input_and_output(node_id, language):
    """With its tooltip, type, range and default."""
    page = locales.page(node_id, language).read_text(encoding="utf-8")
    tables = [table[2] for table in locales.ROWS.finditer(page)]
    inputs, outputs = (table.splitlines() for table in tables[:2])
    schema = SCHEMAS[node_id]
    assert (len(inputs), len(outputs)) == (len(schema.inputs), len(schema.outputs))
    assert page == locales.with_tables(page, schema, locales.texts(language)[node_id], locales.CELLS[language])


def test_ranges_and_defaults_are_as_a_user_meets_them():
    inputs = {entry.id: entry for entry in SCHEMAS["SemanticGuidanceWordMask"].inputs}
    assert locales.span(inputs["noise_level"], "default") == "0.0 - 1.0; default 0.2"
    assert locales.span(inputs["mask"], "default") == "`soft`, `hard`; default `soft`"
    assert locales.span(inputs["words"], "default") == locales.span(inputs["model"], "default") == ""
    assert locales.span(inputs["seed"], "default") == "0 - 18446744073709551615; default 0"
    momentum = SCHEMAS["SemanticGuidanceSEGA"].inputs[-1]
    assert locales.span(momentum, "Vorgabe") == "Vorgabe `true`"
