"""Words of texts in many languages, and the characters that token pieces spell."""

from __future__ import annotations

import pytest

from semantic_guidance.words.pieces import UNKNOWN, characters, spelling
from semantic_guidance.words.split import word_spans

HINDI, ARABIC, HEBREW = "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0639\u0631\u0628\u064a", "\u05e9\u05dc\u05d5\u05dd"
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # with a mark that keeps two letters apart
THUMB, FLAG = "\U0001f44d\U0001f3fd", "\U0001f3f3\ufe0f\u200d\U0001f308"  # of several characters each


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\t\u00a0\u3000", []),
        ("a red T-shirt, cat's", ["a", "red", "T", "-", "shirt", ",", "cat", "'s"]),
        ("don't 'quoted' rock'n'roll", ["don", "'t", "'", "quoted", "'", "rock", "'", "n", "'", "roll"]),
        ("I\u2019ll", ["I", "\u2019ll"]),
        ("long_hair 1girl 2024 3.5", ["long", "_", "hair", "1girl", "2024", "3", ".", "5"]),
        ("nin\u0303o caf\u00e9", ["nin\u0303o", "caf\u00e9"]),
        (f"{HINDI} {HEBREW}, {ARABIC} {PERSIAN}", [HINDI, HEBREW, ",", ARABIC, PERSIAN]),
        ("\u7ea2\u732bcat", ["\u7ea2", "\u732b", "cat"]),
        ("\u0e41\u0e21\u0e27\u0e21\u0e35", ["\u0e41", "\u0e21", "\u0e27", "\u0e21\u0e35"]),  # Thai, with a mark
        ("\U0001f408\U0001f415!!", ["\U0001f408", "\U0001f415", "!", "!"]),
        (f"{THUMB}{THUMB} {FLAG}", [THUMB, THUMB, FLAG]),
        ("red\u200bballoon", ["red", "balloon"]),
    ],
)
def test_words_of_a_text(text, words):
    assert [text[start:stop] for start, stop in word_spans(text)] == words


@pytest.mark.parametrize(
    ("pieces", "kind", "spelled"),
    [
        (["red</w>", "ball", "oon</w>"], "clip", [("red ", (0,)), ("ball", (1,)), ("oon ", (2,))]),
        (["\u00e7", "\u012e", "\u00ab</w>"], "clip", [("\u732b", (0, 1, 2)), (" ", (2,))]),
        (["\u2581a", "\u2581", "<unk>", "<0xE7>", "<0x8C>", "<0xAB>"], "sentencepiece",
         [(" a", (0,)), (" ", (1,)), (UNKNOWN, (2, 2, 2)), ("\u732b", (3, 4, 5))]),
        (["\u0120red", "\u010a", "\u00e7\u012e", "\u00ab"], "bytes",
         [(" red", (0,)), ("\n", (1,)), ("\u732b", (2, 2, 3))]),
        (["\u0120a", "\u00e7", "\u0120b"], "bytes", [(" a", (0,)), (UNKNOWN, (1,)), (" b", (2,))]),
    ],
)  # fmt: skip
def test_characters_of_pieces(pieces, kind, spelled):
    vocabulary = dict(enumerate(pieces))
    assert spelling(vocabulary) == kind
    expected = [(letter, places) for text, places in spelled for letter in text]
    assert [tuple(found) for found in characters(enumerate(vocabulary), vocabulary, kind)] == expected


def test_gaps_and_tokens_without_a_piece():
    found = characters([(4, 0), (5, None), (7, 99)], {0: "\u2581a"}, "sentencepiece")
    assert [(text, places[0]) for text, places in found] == [(" ", 4), ("a", 4), (" ", 5), (UNKNOWN, 7)]
