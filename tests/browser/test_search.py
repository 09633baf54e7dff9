"""The box that a double click on the canvas opens."""

from __future__ import annotations

import pytest

FIRST = 3


@pytest.mark.parametrize(
    ("typed", "node"),
    [
        ("s-cfg", "S-CFG (Semantic-aware CFG)"),
        ("attend and excite", "Attend-and-Excite"),
        ("sega", "SEGA (Concept Editing)"),
        ("mask from text", "Word Mask"),
    ],
)
def test_a_method_is_found_by_its_name_and_added(user, typed, node):
    results = user.search(typed)
    names = [text.split("\n")[0] for text in results.all_inner_texts()]
    assert node in names[:FIRST]
    user.take(results.nth(names.index(node)))
    assert [shown["title"] for shown in user.nodes()] == [node]
