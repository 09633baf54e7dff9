"""Workflows as a user runs them: the Run button, the pictures on the nodes, the errors."""

from __future__ import annotations

import io

import numpy as np
from paths import ROOT
from PIL import Image

NODES_WITH_PICTURES = 7  # two images, regions, rates, words, and the two nodes that show theirs themselves


def detail(user, title: str) -> float:
    """The standard deviation of what a node shows on the screen, in grey levels."""
    png = user.page.screenshot(clip=user.frame(title))
    return float(np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float).std(axis=(0, 1)).mean())


def test_a_workflow_runs_and_its_pictures_show(user):
    user.open(ROOT / "workflows" / "S-CFG text to image (SD 1.5).json")
    user.on_sticker_world()
    empty = detail(user, "Region Preview")
    assert user.run() == "execution_success"
    shown = user.pictures_shown(NODES_WITH_PICTURES)
    user.photograph("run")
    assert [widths for title, widths in shown if title == "Save Image"] == [[128]]
    assert detail(user, "Region Preview") > 2 * empty
    user.photograph("run-regions")
    assert user.console == [] and user.alerts() == []


def test_an_unknown_word_is_told_where_the_user_looks(user):
    user.open(ROOT / "workflows" / "See what a word sees.json")
    user.on_sticker_world(words="cat, giraffe")
    assert user.run() == "execution_error"
    user.page.get_by_test_id("error-overlay").wait_for()
    assert "Word Mask failed" in user.alerts()[0]
    user.page.get_by_test_id("error-overlay-see-errors").click()
    panel = user.page.get_by_test_id("properties-panel")
    panel.get_by_text('Word Mask: "giraffe" is not in the prompt.').first.wait_for()
    user.photograph("error")
    assert "Its words are: a, cat, and, red, balloon." in panel.inner_text()
