"""The rows of the demo."""

from __future__ import annotations

from itertools import pairwise

import demo
import demo_rows
import numpy as np
import pytest
from demo_rows import ROWS

OTHERS = [("mask", "joint"), ("mask", "cross"), ("apart", "cross"), ("sega", "cross")]


@pytest.mark.parametrize(("name", "model"), [*((name, "unet") for name in ROWS), *OTHERS])
def test_every_picture_of_a_row_shows_something_of_its_own(comfy, name, model, monkeypatch):
    monkeypatch.setattr(demo_rows, "STEPS", 4)
    strip = demo.made(comfy, ROWS[name], None, model)
    pictures = [np.asarray(figure.picture.convert("RGB")) for figure in strip.figures]
    assert all(picture.std() > 1 for picture in pictures)
    assert all(one.shape != other.shape or (one != other).any() for one, other in pairwise(pictures))


def test_words_of_ones_own():
    row = demo.own(ROWS["excite"], "a cat, a red balloon and the moon", None, 7)
    assert (row.words, row.seed, row.measured) == ("cat, red balloon, moon", 7, "")
    assert demo.own(ROWS["excite"], None, None, None) == ROWS["excite"]
