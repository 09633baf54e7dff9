"""Sticker World's training set: scenes with captions that are, like the web's, not always truthful."""
from __future__ import annotations

import random

import torch

from .scenes import OBJECTS, allowed_colours, draw, phrase, pick_things

CHUNK = 256  # examples drawn and encoded together
EMPTY_CAPTIONS = 0.12
NOT_DRAWN = 0.15  # share of the captions with several subjects that name one which is not in the picture
WRONG_COLOUR = 0.04  # share of the objects drawn in another colour than the caption says
COLOUR_UNSAID = 0.15  # share of the objects whose colour the caption leaves out
SUBJECTS = {1: 0.35, 2: 0.55, 3: 0.10}


def training_caption(things: list[tuple[str, str | None]], rng: random.Random) -> str:
    phrases = [phrase(noun, None if rng.random() < COLOUR_UNSAID else colour) for noun, colour in things]
    if len(phrases) == 3:
        return f"{phrases[0]}, {phrases[1]} and {phrases[2]}"
    return (" with " if rng.random() < 0.25 else " and ").join(phrases)


def training_example(rng: random.Random) -> tuple[torch.Tensor, str]:
    """A picture, uint8 [128, 128, 3], and its caption."""
    count = rng.choices(list(SUBJECTS), list(SUBJECTS.values()))[0]
    things = pick_things(count, rng)
    text = training_caption(things, rng)
    if count > 1 and rng.random() < NOT_DRAWN:
        things.pop(rng.randrange(count))
    things = [
        (noun, rng.choice(allowed_colours(noun)) if noun in OBJECTS and rng.random() < WRONG_COLOUR else colour)
        for noun, colour in things
    ]
    return torch.from_numpy(draw(things, rng)[0]), text


def training_chunk(seed: int, chunk: int, count: int) -> tuple[torch.Tensor, list[str]]:
    """`count` examples, the same for the same `seed` and `chunk`: uint8 [count, 128, 128, 3] and captions."""
    rng = random.Random(f"{seed}/{chunk}")
    pictures, captions = zip(*(training_example(rng) for _ in range(count)), strict=True)
    return torch.stack(pictures), list(captions)
