"""Word Mask against scenes whose truth is known: `python -m sticker_world.word_masks`. Prints tables in Markdown.

With --write they go into docs/word-mask-accuracy.md, from which the help page of Word Mask takes its figures.

Scenes are drawn, encoded by the VAE, and looked at once by the model with noise added. Per noun of the caption:
IoU of the hard mask with the pixels of its sticker, IoU of the soft mask (sum of minima over sum of maxima), and
pointing: whether the mask's peak lies on that sticker. Means over scenes with 95 % bootstrap intervals.
"""
from __future__ import annotations

from . import host  # noqa: F401

# isort: split
import argparse
import random
from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

import torch
from figures import line, write
from torch import Tensor

from semantic_guidance.guidance.attention_maps import COMPLETIONS, Completion
from semantic_guidance.guidance.word_map import contrast, soft_mask
from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.sampling.word_mask import WordMap, word_maps

from .loader import MODELS, load_sticker_world
from .scenes import NOUNS, SIDE, Scene, make_scenes, phrase

GROUPS = {"singles": 1, "pairs": 2}
CHOOSING, REPORTING = 1001, 2002  # seeds of the scenes by which defaults are chosen, and of those that are reported
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
NOISE_LEVELS = (0.1, 0.2, 0.3, 0.5, 0.8)
MAP_SCALES = (2, 4)
PAGE = "word-mask-accuracy.md"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Setting(NamedTuple):
    noise_level: float
    completion: Completion
    map_scale: int | None  # None: what Word Mask chooses


DEFAULT = Setting(0.2, "power series", None)


class View(NamedTuple):
    scene: Scene
    latent: dict
    prompt: list  # conditioning of the caption


class World:
    """The model, and its view of scenes."""

    def __init__(self, model: str) -> None:
        self.model, self.clip, self.vae = load_sticker_world(model=model)

    def views(self, count: int, seed: int, subjects: int) -> list[View]:
        scenes = make_scenes(count, seed, subjects)
        latents = self.vae.encode(torch.stack([scene.image for scene in scenes]))
        return [
            View(scene, {"samples": latent[None]}, self.prompt(scene.caption))
            for scene, latent in zip(scenes, latents, strict=True)
        ]

    def prompt(self, text: str) -> list:
        return SemanticGuidancePrompt.execute(self.clip, text).result[0]

    def look(self, prompt: list, latent: dict, words: list[str], setting: Setting, seed: int) -> list[WordMap]:
        return word_maps(self.model, prompt, latent, words, *setting, seed=seed)


class Scores(NamedTuple):
    """Means over the subjects of each scene."""

    hard: Tensor  # [scenes, thresholds]
    soft: Tensor  # [scenes]
    pointing: Tensor  # [scenes]


def score(mask: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one soft mask [128, 128] against the pixels of one sticker."""
    hard = mask >= torch.tensor(THRESHOLDS).view(-1, 1, 1)
    hard_iou = (hard & truth).sum((-2, -1)) / (hard | truth).sum((-2, -1))
    soft_iou = torch.minimum(mask, truth.float()).sum() / torch.maximum(mask, truth.float()).sum()
    return hard_iou, soft_iou, truth.flatten()[mask.argmax()].float()


def measure_masks(world: World, views: list[View], setting: Setting) -> dict[str, Scores]:
    """Scores of the nouns alone ("cat", "balloon"), and of the phrases ("cat", "red balloon")."""
    rows: dict[str, list] = {"noun": [], "phrase": []}
    for number, (scene, latent, prompt) in enumerate(views):
        nouns = [subject.noun for subject in scene.subjects]
        phrases = [" ".join(filter(None, (subject.colour, subject.noun))) for subject in scene.subjects]
        maps = world.look(prompt, latent, nouns + phrases, setting, number)
        masks = [soft_mask(seen.attention, seen.share, (SIDE, SIDE))[0] for seen in maps]
        for row, some in zip(rows.values(), (masks[: len(nouns)], masks[len(nouns) :]), strict=True):
            parts = zip(*(score(mask, s.mask) for mask, s in zip(some, scene.subjects, strict=True)), strict=True)
            row.append([torch.stack(part).mean(0) for part in parts])
    return {name: Scores(*map(torch.stack, zip(*row, strict=True))) for name, row in rows.items()}


def interval(values: Tensor) -> str:
    """Mean of [scenes] with the 95 % interval of 2000 bootstrap samples."""
    generator = torch.Generator().manual_seed(0)
    picked = torch.randint(len(values), (2000, len(values)), generator=generator)
    low, high = values[picked].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def show(head: list[str], rows: Iterable[list], page: str | None) -> None:
    """Print a table, and write it into a page of docs/."""
    print(line(head) + "|---" * len(head) + "|")
    shown = []
    for row in rows:
        print(line(row), end="", flush=True)
        shown.append(row)
    print()
    if page:
        write(page, head, shown)


def grid(world: World, count: int) -> Iterator[list]:
    """Every setting, at its best threshold, on the choosing scenes."""
    groups = [world.views(count, CHOOSING, subjects) for subjects in GROUPS.values()]
    for map_scale, completion, noise_level in product(MAP_SCALES, COMPLETIONS, NOISE_LEVELS):
        found = [measure_masks(world, views, Setting(noise_level, completion, map_scale))["noun"] for views in groups]
        best = sum(scores.hard.mean(0) for scores in found).argmax()
        cells = [f"{mean:.3f}" for scores in found for mean in (scores.hard[:, best].mean(), scores.pointing.mean())]
        yield [f"1/{map_scale}", completion, noise_level, THRESHOLDS[best], *cells]


def report(world: World, count: int) -> tuple[list[str], list[list]]:
    """The default on the reporting scenes, at every threshold."""
    head = [""]
    rows = [*([f"IoU, hard, threshold {threshold}"] for threshold in THRESHOLDS), ["IoU, soft"], ["pointing"]]
    for group, subjects in GROUPS.items():
        for name, found in measure_masks(world, world.views(count, REPORTING, subjects), DEFAULT).items():
            head.append(f"{group}, {name}")
            for row, values in zip(rows, [*found.hard.unbind(1), found.soft, found.pointing], strict=True):
                row.append(interval(values))
    return head, rows


def contrasts(world: World, count: int) -> Iterator[list]:
    """Quantiles of the contrast: of nouns that are in the picture, of nouns that are not, and of words for nothing."""
    rng = random.Random(REPORTING)
    found: dict[str, list[Tensor]] = {"noun in the picture": [], "noun not in it": [], "a": [], "and": []}
    for number, (scene, latent, _) in enumerate(world.views(count, REPORTING, 1)):
        noun = scene.subjects[0].noun
        other = rng.choice([name for name in NOUNS if name != noun])
        prompt = world.prompt(f"{scene.caption} and {phrase(other)}")
        maps = world.look(prompt, latent, [noun, other, "#1", "and"], DEFAULT, number)
        for values, seen in zip(found.values(), maps, strict=True):
            values.append(contrast(seen.attention, seen.share)[0])
    for name, values in found.items():
        yield [name, *(f"{q:.2f}" for q in torch.stack(values).quantile(torch.tensor(QUANTILES)).tolist())]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="which of its models (%(default)s)")
    parser.add_argument("--scenes", type=int, default=200, help="scenes per group (%(default)s)")
    parser.add_argument("--grid", type=int, default=0, metavar="SCENES", help="first compare all settings on so many")
    parser.add_argument("--write", action="store_const", const=PAGE, help="into docs/%(const)s")
    args = parser.parse_args()
    world = World(args.model)
    if args.grid:
        head = ["map_scale", "completion", "noise level", "threshold"]
        head += [f"{group}, {measured}" for group in GROUPS for measured in ("IoU", "pointing")]
        show(head, grid(world, args.grid), args.write)
    show(*report(world, args.scenes), args.write)
    show(["contrast", *(f"{q:.0%}" for q in QUANTILES)], contrasts(world, args.scenes), args.write)


if __name__ == "__main__":
    main()
