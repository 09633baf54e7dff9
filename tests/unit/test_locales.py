"""The nodes' texts and help pages in all languages, against the English that they were translated from.

What is not translated yet, or is older than its English, is named at the end and fails nothing here; see translated.py.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter

import pytest
import translated
import translations
from paths import ROOT

TRANSLATIONS = translated.languages()
ENGLISH = translations.texts("en")
UNFINISHED = {language: translated.unfinished(language) for language in TRANSLATIONS}
PAGES = [
    (node_id, language) for node_id in ENGLISH for language in TRANSLATIONS
    if f"help of {node_id}" not in UNFINISHED[language]
]  # fmt: skip
PRODUCTS = re.compile(r"S-CFG|SEGA|LEDITS\+\+|Attend-and-Excite|SDXL|SD \d\.x|IP-Adapter|ControlNet|LoRA|Sticker World")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
QUOTED = re.compile(r"(?<!\w)'([a-z ]+)'(?!\w)")  # a widget's value, which is never translated
CODE = re.compile(r"`[^`\n]+`")
SCRIPTS = {
    "zh": r"[\u4e00-\u9fff]", "zh-TW": r"[\u4e00-\u9fff]", "ja": r"[\u3040-\u30ff\u4e00-\u9fff]",
    "ko": r"[\uac00-\ud7a3]", "ru": r"[а-яё]", "ar": r"[\u0600-\u06ff]",
}  # fmt: skip
UNTRANSLATED = {"clip", "Attend-and-Excite"}
UNSEEN = {"SemanticGuidancePrompt", "SemanticGuidanceWords"}  # they give nothing to look at


def pairs(language: str) -> list[tuple[str, str, str]]:
    """(place, English, translation) of every text of the nodes that was translated from the present English."""
    texts = translated.leaves(translations.texts(language))
    english = translated.leaves(ENGLISH).items()
    return [(place, text, texts[place]) for place, text in english if place not in UNFINISHED[language]]


def missing(wanted: re.Pattern, english: str, translation: str) -> Counter:
    return Counter(wanted.findall(english)) - Counter(wanted.findall(translation))


def read(node_id: str, language: str) -> str:
    return translated.page(node_id, language).read_text(encoding="utf-8")


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translations_are_of_what_english_says(language):
    """`python -m translations` puts right what fails here."""
    assert translated.texts(language).keys() <= translated.texts("en").keys()
    assert translated.marks(language) == translated.noted(language)
    if left := UNFINISHED[language]:
        warnings.warn(f"{language}: {len(left)} texts are not translated: {translated.listed(left)}", stacklevel=1)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_texts_of_the_nodes_are_in_the_language(language):
    script = re.compile(SCRIPTS.get(language, r"\w"), re.IGNORECASE)
    for place, english, translation in pairs(language):
        if english in UNTRANSLATED:
            assert translation == english, place
            continue
        assert script.search(translation), place
        if place.endswith(("tooltip", "description")):
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
    for place, text in translated.leaves(translations.texts(language)).items():
        assert text == text.strip() and not re.search(r"[{}@|]", text), place


@pytest.mark.parametrize("language", translations.LANGUAGES)
def test_no_node_has_two_inputs_of_one_name(language):
    for node_id, node in translations.texts(language).items():
        names = [entry["name"] for entry in node.get("inputs", {}).values() if "name" in entry]
        assert len(set(names)) == len(names), node_id


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_categories_are_translated(language):
    assert all(name and name != english for english, name in translations.categories(language).items())


@pytest.mark.parametrize(("node_id", "language"), PAGES)
def test_help_pages_say_the_same_in_every_language(node_id, language):
    english, page = read(node_id, "en"), read(node_id, language)
    names = translations.filled(translations.texts(language), ENGLISH)
    assert page.startswith(f"# {names[node_id]['display_name']}\n")
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
    pages = {translated.page(node_id, language) for node_id in ENGLISH for language in translations.LANGUAGES}
    pages = {page for page in pages if page.is_file()}
    shown = {name for page in pages for name in re.findall(r"\]\((images/[^)]+)\)", page.read_text(encoding="utf-8"))}
    files = {path for path in (ROOT / "web").rglob("*") if path.is_file()}
    assert files == pages | {translations.PAGES / name for name in shown}


def test_what_is_missing_or_older_is_told_from_what_was_translated_anew(tmp_path):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")

    def say(language, **nodes):
        write(f"locales/{language}/nodeDefs.json", json.dumps(nodes))
        write(f"locales/{language}/main.json", "{}")

    def left():
        return translated.unfinished("fr", tmp_path)

    (tmp_path / "tests").mkdir()
    say("en", Node={"a": "cat", "b": "dog"})
    say("fr", Node={"a": "chat"})
    write("web/docs/Node.md", "# Node\n| a | cat |\n")
    write("web/docs/Node/fr.md", "# Noeud\n| a | chat |\n")
    assert left() == {"Node.b": translated.MISSING}
    translated.note("fr", root=tmp_path)
    say("en", Node={"a": "a cat", "b": "dog"})
    write("web/docs/Node.md", "# Node\n| a | a cat |\n")  # no more than its table
    translated.note("fr", root=tmp_path)
    assert left() == {"Node.a": translated.OLDER, "Node.b": translated.MISSING}
    assert translated.listed(left(), most=1) == "Node.a (older than the English) and 1 more"
    say("fr", Node={"a": "un chat", "b": "chien"})
    assert left() == {} and translated.marks("fr", tmp_path) != translated.noted("fr", tmp_path)
    translated.note("fr", root=tmp_path)
    assert left() == {} and translated.marks("fr", tmp_path) == translated.noted("fr", tmp_path)
    say("en", Node={"a": "Cat", "b": "dog"})
    assert left() == {"Node.a": translated.OLDER}
    translated.note("fr", still_right=True, root=tmp_path)
    assert left() == {}
