"""Scenes tell the truth about themselves and hold out what they should."""
from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
import torch

from sticker_world.dataset import NOT_DRAWN, training_chunk
from sticker_world.scenes import (
    ANIMALS,
    COLOURS,
    HELD_OUT_BINDINGS,
    HELD_OUT_PAIRS,
    NOUNS,
    OBJECTS,
    caption,
    draw,
    make_scenes,
    pick_things,
    sticker,
)


def test_the_benchmark_vocabulary_without_bench():
    assert (len(ANIMALS), len(OBJECTS), len(COLOURS)) == (12, 11, 11)
    assert "bench" not in NOUNS


def test_captions():
    things = [("elephant", None), ("apple", "orange"), ("car", "red")]
    assert caption(things) == "an elephant and an orange apple and a red car"


def test_the_same_seed_gives_the_same_scenes():
    for first, second in zip(make_scenes(5, seed=3), make_scenes(5, seed=3), strict=True):
        assert first.caption == second.caption
        assert torch.equal(first.image, second.image)


def test_boxes_hold_their_masks_and_masks_do_not_overlap():
    for scene in make_scenes(30, seed=4, subjects=3):
        covered = torch.zeros(128, 128)
        for subject in scene.subjects:
            left, top, right, bottom = subject.box
            inside = torch.zeros(128, 128, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            assert subject.mask.any() and not (subject.mask & ~inside).any()
            covered += subject.mask
        assert covered.max() == 1


def test_a_subject_is_drawn_where_its_mask_says():
    for scene in make_scenes(20, seed=5):
        background = scene.image[0, 0]
        changed = (scene.image - background).abs().amax(-1) > 0.02
        for subject in scene.subjects:
            assert (changed & subject.mask).sum() > 0.9 * subject.mask.sum()


@pytest.mark.parametrize("noun", OBJECTS)
def test_a_tint_has_its_hue(noun):
    means = {}
    for colour in ("red", "green", "blue"):
        pixels = torch.from_numpy(np.array(sticker(noun, colour), np.float32)).flatten(0, 1)
        means[colour] = pixels[pixels[:, 3] > 250][:, :3].mean(0)
    assert means["red"][0] > means["blue"][0] and means["red"][0] > means["green"][0]
    assert means["green"][1] > means["red"][1] and means["blue"][2] > means["red"][2]


def test_training_never_shows_what_is_held_out():
    rng = random.Random(6)
    for _ in range(1000):
        things = pick_things(rng.randint(1, 3), rng)
        assert not any(frozenset(pair) in HELD_OUT_PAIRS for pair in combinations([noun for noun, _ in things], 2))
        assert not any((colour, noun) in HELD_OUT_BINDINGS for noun, colour in things)


def test_a_training_chunk_is_reproducible_and_speaks_the_vocabulary():
    pictures, captions = training_chunk(seed=0, chunk=0, count=16)
    again, same = training_chunk(seed=0, chunk=0, count=16)
    assert torch.equal(pictures, again) and captions == same
    words = {word for text in captions for word in text.replace(",", "").split()}
    assert words <= {"a", "an", "and", "with", *NOUNS, *COLOURS}
    assert 0 < NOT_DRAWN < 1


def test_a_thing_can_be_drawn_in_a_held_out_colour_too():
    colour, noun = sorted(HELD_OUT_BINDINGS)[0]
    _, (subject,) = draw([(noun, colour)], random.Random(0))
    assert (subject.noun, subject.colour) == (noun, colour)
