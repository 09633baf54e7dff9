"""A sheet of samples. `python -m sticker_world.sheet --help`."""
from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from . import host  # noqa: F401

# isort: split
import torch
from PIL import Image

from .loader import MODELS, WEIGHTS, load_sticker_world
from .sampling import SETTINGS, Settings, generate

PROMPTS = (
    "a cat", "a red balloon", "an elephant", "a blue car", "a frog", "a purple backpack",
    "a cat and a dog", "a lion and a red car", "a turtle with a yellow crown", "a green apple and a blue chair",
    "a rabbit and a pink bow", "a horse and a bird",
    "a monkey and an orange balloon", "a mouse and a brown suitcase", "a white bow and a black clock",
    "a bear and a green bowl", "a dog with a purple glasses", "a cat, a frog and a red apple",
)  # fmt: skip


def draw_sheet(
    world: tuple, prompts: tuple[str, ...], seeds: tuple[int, ...], columns: int, settings: Settings
) -> Image.Image:
    """Pictures of every prompt with every seed, in reading order."""
    pictures = torch.cat([generate(world, prompt, seeds, settings) for prompt in prompts])
    rows = -(-len(pictures) // columns)
    canvas = torch.ones(rows * 132 + 4, columns * 132 + 4, 3)
    for index, picture in enumerate(pictures):
        top, left = index // columns * 132 + 4, index % columns * 132 + 4
        canvas[top : top + 128, left : left + 128] = picture
    return Image.fromarray((canvas * 255).round().byte().numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the prompts")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--cfg", type=float, default=Settings.cfg)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    args = parser.parse_args()
    settings = replace(SETTINGS[args.model], steps=args.steps, cfg=args.cfg)
    world = load_sticker_world(args.weights, args.model)
    draw_sheet(world, PROMPTS[: args.prompts], tuple(range(args.seeds)), args.columns, settings).save(args.out)


if __name__ == "__main__":
    main()
