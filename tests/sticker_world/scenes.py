"""Scenes of Sticker World: one to three stickers on a light background, a caption, and the truth about both.

Nouns and colours are those of Attend-and-Excite's benchmark (Chefer et al., SIGGRAPH 2023, supplement), without
"bench", for which the sticker set has no picture.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

SIDE = 128
STICKERS = Path(__file__).parent / "stickers"

ANIMALS = ("cat", "dog", "bird", "bear", "lion", "horse", "elephant", "monkey", "frog", "turtle", "rabbit", "mouse")
OBJECTS = ("backpack", "glasses", "crown", "suitcase", "chair", "balloon", "bow", "car", "bowl", "clock", "apple")
NOUNS = ANIMALS + OBJECTS

# name: (shade, base, light), the ramp a sticker's luminance is mapped to
RAMPS = {
    "red": ((110, 8, 22), (222, 30, 40), (255, 120, 112)),
    "orange": ((158, 66, 0), (252, 132, 14), (255, 190, 100)),
    "yellow": ((170, 124, 0), (252, 212, 22), (255, 242, 138)),
    "green": ((8, 78, 28), (36, 160, 62), (134, 220, 130)),
    "blue": ((10, 36, 120), (36, 98, 226), (124, 180, 255)),
    "purple": ((58, 16, 108), (130, 56, 200), (194, 142, 246)),
    "pink": ((186, 44, 110), (252, 120, 178), (255, 196, 222)),
    "brown": ((54, 28, 12), (118, 70, 38), (176, 126, 88)),
    "gray": ((72, 74, 80), (132, 135, 142), (186, 189, 196)),
    "black": ((8, 8, 12), (38, 38, 46), (92, 92, 104)),
    "white": ((176, 182, 196), (238, 240, 246), (255, 255, 255)),
}
COLOURS = tuple(RAMPS)

# centre and half width, in degrees, of the hues that take the colour; all others (a leaf, a window) stay as they are
TINTED_HUES = {
    "backpack": (345, 45), "glasses": (205, 45), "crown": (38, 36), "suitcase": (212, 60), "chair": (0, 180),
    "balloon": (345, 50), "bow": (345, 60), "car": (345, 50), "bowl": (225, 60), "clock": (345, 35), "apple": (345, 55),
}

BACKGROUNDS = ((250, 238, 214), (214, 232, 250), (220, 242, 220), (248, 220, 226), (230, 224, 246), (226, 230, 234))


@dataclass(frozen=True)
class Subject:
    """A sticker in a picture. `box` is (left, top, right, bottom) in pixels, `mask` a bool tensor [128, 128]."""

    noun: str
    colour: str | None
    box: tuple[int, int, int, int]
    mask: torch.Tensor


@dataclass(frozen=True)
class Scene:
    """A picture `image` [128, 128, 3] in 0..1, its caption, and what is really in it."""

    image: torch.Tensor
    caption: str
    subjects: tuple[Subject, ...]


def _held_out(items: list, share: float, seed: int) -> frozenset:
    return frozenset(random.Random(seed).sample(items, round(share * len(items))))


HELD_OUT_PAIRS = _held_out([frozenset(pair) for pair in combinations(NOUNS, 2)], 0.15, seed=1)
HELD_OUT_BINDINGS = _held_out(list(product(COLOURS, OBJECTS)), 0.10, seed=2)


def tint(art: Image.Image, colour: str, hues: tuple[float, float]) -> Image.Image:
    """Map the luminance of the pixels within `hues` (centre, half width in degrees) to the ramp of `colour`."""
    rgba = np.asarray(art, np.float32) / 255
    hsv = np.asarray(art.convert("RGB").convert("HSV"), np.float32) / 255
    distance = np.abs((hsv[..., 0] * 360 - hues[0] + 180) % 360 - 180)
    weight = np.clip((hues[1] - distance) / 8 + 1, 0, 1) * np.clip((hsv[..., 1] - 0.12) / 0.1, 0, 1)
    luminance = rgba[..., :3] @ np.array((0.299, 0.587, 0.114), np.float32)
    levels = np.quantile(luminance[(weight > 0.5) & (rgba[..., 3] > 0.5)], (0.02, 0.5, 0.98))
    ramp = np.array(RAMPS[colour], np.float32) / 255
    tinted = np.stack([np.interp(luminance, levels, ramp[:, channel]) for channel in range(3)], -1)
    rgba[..., :3] += weight[..., None] * (tinted - rgba[..., :3])
    return Image.fromarray((rgba * 255).round().astype(np.uint8))


@cache
def sticker(noun: str, colour: str | None) -> Image.Image:
    """A sticker with its white rim, RGBA, cut to its own extent. `colour` None keeps the artist's colours."""
    art = Image.open(STICKERS / f"{noun}.png").convert("RGBA")
    if colour is not None:
        art = tint(art, colour, TINTED_HUES[noun])
    canvas = Image.new("RGBA", (SIDE + 16, SIDE + 16))
    canvas.paste(art, (8, 8))
    rim = canvas.getchannel("A").filter(ImageFilter.MaxFilter(9)).filter(ImageFilter.GaussianBlur(1.2))
    cut = Image.new("RGBA", canvas.size, (255, 255, 255, 0))
    cut.putalpha(rim)
    cut.alpha_composite(canvas)
    return cut.crop(rim.getbbox())


def _place(count: int, rng: random.Random) -> list[tuple[int, int, int]]:
    """(left, top, side) of `count` squares that do not overlap."""
    smallest, largest = {1: (60, 92), 2: (50, 64), 3: (42, 52)}[count]
    while True:
        sides = [rng.randint(smallest, largest) for _ in range(count)]
        squares = [(rng.randint(2, SIDE - 2 - side), rng.randint(2, SIDE - 2 - side), side) for side in sides]
        if all(
            abs(x + s / 2 - u - t / 2) >= (s + t) / 2 or abs(y + s / 2 - v - t / 2) >= (s + t) / 2
            for (x, y, s), (u, v, t) in combinations(squares, 2)
        ):
            return squares


def compose(cuts: list[Image.Image], rng: random.Random) -> tuple[np.ndarray, list[np.ndarray]]:
    """Lay RGBA cut-outs on a background: an RGB picture, uint8 [128, 128, 3], and the coverage of each."""
    picture = Image.new("RGBA", (SIDE, SIDE), rng.choice(BACKGROUNDS))
    coverages = []
    for cut, (left, top, side) in zip(cuts, _place(len(cuts), rng), strict=True):
        cut = cut.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True)
        cut.thumbnail((side, side), Image.Resampling.LANCZOS)
        corner = left + (side - cut.width) // 2, top + (side - cut.height) // 2
        coverage = Image.new("L", (SIDE, SIDE))
        coverage.paste(cut.getchannel("A"), corner)
        shadow = Image.new("RGBA", (SIDE, SIDE), (40, 40, 70, 0))
        shadow.putalpha(coverage.filter(ImageFilter.GaussianBlur(1.5)).point(lambda a: a * 2 // 5))
        picture.alpha_composite(shadow, (0, 1))
        picture.alpha_composite(cut, corner)
        coverages.append(np.array(coverage))
    return np.array(picture.convert("RGB")), coverages


def draw(things: list[tuple[str, str | None]], rng: random.Random) -> tuple[np.ndarray, tuple[Subject, ...]]:
    """Draw `(noun, colour)` things: an RGB picture, uint8 [128, 128, 3], and the truth about its subjects."""
    picture, coverages = compose([sticker(*thing) for thing in things], rng)
    subjects = (
        Subject(noun, colour, Image.fromarray(coverage).getbbox(), torch.from_numpy(coverage > 127))
        for (noun, colour), coverage in zip(things, coverages, strict=True)
    )
    return picture, tuple(subjects)


def phrase(noun: str, colour: str | None = None) -> str:
    """The noun phrase of a caption, such as "a red balloon" or "an elephant"."""
    words = f"{colour} {noun}" if colour else noun
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(things: list[tuple[str, str | None]], joint: str = " and ") -> str:
    return joint.join(phrase(*thing) for thing in things)


def allowed_colours(noun: str) -> list[str]:
    """The colours that `noun` has in training."""
    return [colour for colour in COLOURS if (colour, noun) not in HELD_OUT_BINDINGS]


def pick_nouns(count: int, rng: random.Random) -> list[str]:
    """`count` different nouns, of which no two are a held-out pair."""
    while True:
        nouns = rng.sample(NOUNS, count)
        if not any(frozenset(pair) in HELD_OUT_PAIRS for pair in combinations(nouns, 2)):
            return nouns


def pick_things(count: int, rng: random.Random) -> list[tuple[str, str | None]]:
    """`count` things as they occur in training: animals as they are, objects in a colour."""
    return [(noun, rng.choice(allowed_colours(noun)) if noun in OBJECTS else None) for noun in pick_nouns(count, rng)]


def make_scenes(count: int, seed: int, subjects: int | None = None) -> list[Scene]:
    """`count` truthful scenes with `subjects` stickers each (None: one to three), the same for the same seed."""
    rng = random.Random(seed)
    scenes = []
    for _ in range(count):
        things = pick_things(subjects or rng.randint(1, 3), rng)
        image, drawn = draw(things, rng)
        scenes.append(Scene(torch.from_numpy(image) / 255, caption(things), drawn))
    return scenes
