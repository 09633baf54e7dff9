"""Translations and help pages as the server gives them to the front end."""

from __future__ import annotations

import pytest
import translated
import translations

FOLDER = "semantic-guidance"


@pytest.fixture(scope="module")
def served(comfy):
    return comfy.get_json("/i18n")


@pytest.mark.parametrize("language", translations.LANGUAGES)
def test_the_server_gives_the_translations(served, language):
    assert served[language]["nodeDefs"].items() >= translations.texts(language).items()
    assert served[language]["nodeCategories"].items() >= translations.categories(language).items()


@pytest.mark.parametrize("language", [language for language in translations.LANGUAGES if language != "en"])
def test_the_server_gives_the_help_pages(comfy, language):
    for node_id, node in translations.texts(language).items():
        if not translated.page(node_id, language).is_file():
            continue
        page = comfy.get(f"/extensions/{FOLDER}/docs/{node_id}/{language}.md").decode()
        assert page.startswith(f"# {node['display_name']}\n")
