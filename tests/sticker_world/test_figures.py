"""The models do what docs/results.md says of them, on a few pictures of their own."""
from __future__ import annotations

from dataclasses import replace

import pytest

from sticker_world.judge import judge
from sticker_world.loader import MODELS, load_sticker_world
from sticker_world.sampling import SETTINGS, generate
from sticker_world.scenes import phrase
from sticker_world.word_masks import DEFAULT, World, measure_masks

NOUNS = ("cat", "frog", "lion", "balloon", "car", "crown", "elephant", "backpack")


@pytest.mark.parametrize("model", MODELS)
def test_a_subject_that_is_asked_for_is_there(model):
    """19 of 20 are: of eight, seven or more with a probability of 0.94, six or more of 0.99."""
    world = load_sticker_world(model=model)
    settings = replace(SETTINGS[model], steps=10)
    pictures = [judge(generate(world, phrase(noun), [3], settings))[0].has(noun) for noun in NOUNS]
    assert sum(pictures) >= 6


@pytest.mark.parametrize("model", MODELS)
def test_a_words_mask_lies_on_its_sticker(model):
    world = World(model)
    found = measure_masks(world, world.views(8, seed=77, subjects=1), DEFAULT)["noun"]
    assert found.pointing.mean() >= 7 / 8
    assert found.hard.amax(1).mean() > 0.6
