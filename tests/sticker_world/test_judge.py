"""The judge is right on scenes it never saw, whole and decoded, and does not guess."""
from __future__ import annotations

import pytest
import torch

from sticker_world.judge import judge, load_judge
from sticker_world.loader import read_weights
from sticker_world.scenes import BACKGROUNDS, make_scenes
from sticker_world.train_judge import accuracy, decoded, examples


def test_verdicts_on_composed_and_decoded_scenes():
    pictures, _, _, things = examples(150, seed=31, blends=0.0)
    composed = accuracy(load_judge(), pictures, things)
    assert composed["nouns"] > 0.97 and composed["colours"] > 0.97 and composed["false_finds"] < 0.03
    through = accuracy(load_judge(), decoded(pictures[:60]), things[:60])
    assert through["nouns"] > 0.93 and through["colours"] > 0.93


def test_boxes_lie_on_the_subjects():
    scenes = make_scenes(20, seed=32, subjects=2)
    verdicts = judge(torch.stack([scene.image for scene in scenes]))
    boxes = {(i, one.noun): one.box for i, verdict in enumerate(verdicts) for one in verdict.found}
    for i, scene in enumerate(scenes):
        for subject in scene.subjects:
            box = boxes.get((i, subject.noun))
            if box is not None:
                left, top, right, bottom = subject.box
                assert left < (box[0] + box[2]) / 2 < right and top < (box[1] + box[3]) / 2 < bottom


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_nothing_is_found_in_an_empty_picture(background):
    assert judge(torch.tensor(background).expand(1, 128, 128, 3) / 255)[0].found == ()


def test_blends_are_mostly_called_unknown():
    pictures, _, _, things = examples(150, seed=33, blends=0.5)
    assert accuracy(load_judge(), pictures, things)["blends_not_named"] > 0.7


def test_the_weights_carry_their_measured_accuracy():
    assert '"nouns"' in read_weights("judge")[1]["accuracy"]
