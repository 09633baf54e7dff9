"""The nodes' texts and help pages in all languages, against the English ones. See tests/translations.py."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import translations
from paths import ROOT

TRANSLATIONS = [language for language in translations.LANGUAGES if language != "en"]
ENGLISH = translations.texts("en")
PAGES = [(node_id, language) for node_id in ENGLISH for language in TRANSLATIONS]
PRODUCTS = re.compile(r"S-CFG|SEGA|LEDITS\+\+|Attend-and-Excite|SDXL|SD \d\.x|IP-Adapter|ControlNet|LoRA|Sticker World")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
QUOTED = re.compile(r"'([a-z ]+)'")  # a widget's value, which is never translated
CODE = re.compile(r"`[^`\n]+`")
SCRIPTS = {"zh": r"[\u4e00-\u9fff]", "ja": r"[\u3040-\u30ff\u4e00-\u9fff]", "ko": r"[\uac00-\ud7a3]", "ru": r"[а-яё]"}
UNTRANSLATED = {"clip", "Attend-and-Excite"}
UNSEEN = {"SemanticGuidancePrompt", "SemanticGuidanceWords"}  # they give nothing to look at


def leaves(texts: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """The texts by their place."""
    found = {}
    for key, value in texts.items():
        found |= leaves(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


def pairs(language: str) -> list[tuple[tuple[str, ...], str, str]]:
    """(place, English, translation) of every text."""
    translated = leaves(translations.texts(language))
    return [(place, text, translated[place]) for place, text in leaves(ENGLISH).items()]


def missing(wanted: re.Pattern, english: str, translation: str) -> Counter:
    return Counter(wanted.findall(english)) - Counter(wanted.findall(translation))


def read(node_id: str, language: str) -> str:
    return translations.page(node_id, language).read_text(encoding="utf-8")


def test_the_languages_are_the_folders():
    assert sorted(path.name for path in translations.FOLDER.iterdir()) == sorted(translations.LANGUAGES)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_every_text_of_the_nodes_is_translated(language):
    assert leaves(translations.texts(language)).keys() == leaves(ENGLISH).keys()
    script = re.compile(SCRIPTS.get(language, r"\w"), re.IGNORECASE)
    for place, english, translation in pairs(language):
        if english in UNTRANSLATED:
            assert translation == english, place
            continue
        assert script.search(translation), place
        if place[-1] in ("tooltip", "description"):
            assert translation != english, place


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translations_keep_numbers_names_and_values(language):
    for place, english, translation in pairs(language):
        assert not missing(NUMBER, english, translation), place
        assert set(PRODUCTS.findall(english)) <= set(PRODUCTS.findall(translation)), place
        assert all(f"'{value}'" in translation for value in QUOTED.findall(english)), place


@pytest.mark.parametrize("language", translations.LANGUAGES)
def test_texts_hold_no_syntax_of_the_front_ends_messages(language):
    """vue-i18n takes {name} for a placeholder, @: for a link and | for a plural."""
    for place, text in leaves(translations.texts(language)).items():
        assert text == text.strip() and not re.search(r"[{}@|]", text), place


@pytest.mark.parametrize("language", translations.LANGUAGES)
def test_no_node_has_two_inputs_of_one_name(language):
    for node_id, node in translations.texts(language).items():
        names = [entry["name"] for entry in node["inputs"].values()]
        assert len(set(names)) == len(names), node_id


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_categories_are_translated(language):
    translated = translations.categories(language)
    assert translated.keys() == translations.categories("en").keys()
    assert all(name and name != english for english, name in translated.items())


@pytest.mark.parametrize(("node_id", "language"), PAGES)
def test_help_pages_say_the_same_in_every_language(node_id, language):
    english, page = read(node_id, "en"), read(node_id, language)
    assert page.startswith(f"# {translations.texts(language)[node_id]['display_name']}\n")
    for part in (r"(?m)^#+ ", r"(?m)^- ", r"(?m)^\|", r"\n\n", r"!\[[^\]]+\]\(([^)]+)\)"):
        assert re.findall(part, page) == re.findall(part, english), part
    assert not missing(NUMBER, english, page)
    assert set(PRODUCTS.findall(english)) <= set(PRODUCTS.findall(page))
    named = {f"`{entry}`" for node in ENGLISH.values() for entry in node["inputs"]}  # by their translated names
    assert missing(CODE, prose(english), prose(page)).keys() <= named


def prose(page: str) -> str:
    return re.sub(r"(?m)^\|.*\n", "", page)


@pytest.mark.parametrize("node_id", [node_id for node_id in ENGLISH if node_id not in UNSEEN])
def test_help_pages_show_what_a_node_gives(node_id):
    """The front end takes pictures relative to web/docs/."""
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", read(node_id, "en"))
    assert pictures and all((translations.PAGES / picture).is_file() for picture in pictures)


def test_there_is_no_help_page_or_picture_that_nobody_sees():
    pages = {translations.page(node_id, language) for node_id in ENGLISH for language in translations.LANGUAGES}
    shown = {name for page in pages for name in re.findall(r"\]\((images/[^)]+)\)", page.read_text(encoding="utf-8"))}
    files = {path for path in (ROOT / "web").rglob("*") if path.is_file()}
    assert files == pages | {translations.PAGES / name for name in shown}
