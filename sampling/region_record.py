"""The regions of a run in which each was guided in its own way, kept for the previews."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .record import IF_CACHED, RunRecord


class Region(NamedTuple):
    """A region's name: the token column of one prompt, and the word it belongs to ("" for start, end, padding)."""

    prompt: int
    column: int
    text: str


class RegionStep(NamedTuple):
    """One sampler step of a latent [B, C, *size]."""

    step: int  # from 0
    sigma: float
    owner: Tensor  # [B, *size] int16, index into the regions
    rates: Tensor  # [B, regions], before limits; 0 where a region has no place
    rate_map: Tensor  # [B, *size], the rate that was applied

    def on_cpu(self) -> RegionStep:
        return self._replace(owner=self.owner.cpu(), rates=self.rates.cpu(), rate_map=self.rate_map.cpu())


class Regions(NamedTuple):
    """One finished sampling run."""

    regions: tuple[Region, ...]
    steps: tuple[RegionStep, ...]
    downscale: int  # pixels per latent position, each way
    fingerprint: Tensor  # of the latent that the run returned
    node: str = "S-CFG"  # that acted

    @property
    def batch(self) -> int:
        return self.steps[0].owner.shape[0]

    @property
    def frames(self) -> int:
        """Latent frames of each clip; 1 for images."""
        return self.steps[0].owner.shape[1:-2].numel()


def first_of_steps(seen: Iterable[RegionStep]) -> list[RegionStep]:
    """In the order of the steps; samplers that evaluate a step more than once start at its sigma, the highest."""
    first: dict[int, RegionStep] = {}
    for one in sorted(seen, key=lambda one: -one.sigma):
        first.setdefault(one.step, one)
    return list(first.values())


def met(regions: list[Region], steps: list[RegionStep]) -> tuple[tuple[Region, ...], tuple[RegionStep, ...]]:
    """The regions that have a place in some step, in the order of first sight, and the steps with only these."""
    order = list(dict.fromkeys(index for step in steps for index in step.owner.unique().tolist()))
    place = torch.zeros(len(regions), dtype=torch.int16)
    place[order] = torch.arange(len(order), dtype=torch.int16)
    kept = []
    for step in steps:
        rates = F.pad(step.rates, (0, len(regions) - step.rates.shape[1]))  # regions may join in later steps
        kept.append(step._replace(owner=place[step.owner.long()], rates=rates[:, order]))
    return tuple(regions[index] for index in order), tuple(kept)


class ShownWord(NamedTuple):
    """A word that owns some part of the image; one for all tokens without a word."""

    prompt: int
    text: str  # "" for start, end and padding
    number: int | None  # in the order in which the words of the whole run were met; None without a word


class WordStep(NamedTuple):
    """One step by words, picture by picture: P images of a batch, or latent frames, those of one clip together."""

    step: int  # from 0
    owner: Tensor  # [P, H, W] int64, index into the words shown
    shares: Tensor  # [P, n], of the picture, sum to 1
    rates: Tensor  # [P, n], mean of the applied rate over the word's part, NaN where it has none
    rate_map: Tensor  # [P, H, W] fp32


def steps_shown(run: Regions, number: int) -> tuple[RegionStep, ...]:
    """-1: the last step that was recorded, 0: all of them, n: the sampler's nth step. ValueError outside of these."""
    if number == 0:
        return run.steps
    if number == -1:
        return run.steps[-1:]
    for step in run.steps:
        if step.step == number - 1:
            return (step,)
    first, last = run.steps[0].step + 1, run.steps[-1].step + 1
    raise ValueError(f"there is no step {number}. {run.node} acted in steps {first} to {last}; -1 is the last, 0 shows "
                     "all.")


def by_words(run: Regions, steps: tuple[RegionStep, ...]) -> tuple[tuple[ShownWord, ...], list[WordStep]]:
    """Regions of tokens joined to regions of words.

    The words that own some part of the image in one of these steps, in the order of the prompts, "no word" last.
    The same text at two places of a prompt is one word.
    """
    keys = [(region.prompt, region.text) if region.text else (0, "") for region in run.regions]
    numbers: dict[tuple[int, str], int] = {}
    for key in keys:
        if key[1]:
            numbers.setdefault(key, len(numbers))
    seen = {int(index) for step in steps for index in step.owner.unique()}
    in_prompt = sorted(seen, key=lambda index: (not keys[index][1], run.regions[index]))
    order = list(dict.fromkeys(keys[index] for index in in_prompt))
    words = tuple(ShownWord(*key, numbers.get(key)) for key in order)

    index_of = {key: index for index, key in enumerate(order)}
    table = torch.tensor([index_of.get(key, -1) for key in keys])
    shown = []
    for step in steps:
        owner = table[step.owner.long()].flatten(0, -3)
        masks = word_masks(owner, len(words)).flatten(2).float()  # [P, n, H * W]
        rate_map = step.rate_map.float().flatten(0, -3)
        sizes = masks.sum(dim=-1)
        rates = torch.einsum("bnp,bp->bn", masks, rate_map.flatten(1)) / sizes
        shown.append(WordStep(step.step, owner, sizes / masks.shape[-1], rates, rate_map))
    return words, shown


def word_masks(owner: Tensor, count: int) -> Tensor:
    """[P, H, W] indices -> bool [P, count, H, W]; every position belongs to one word."""
    return owner[:, None] == torch.arange(count)[:, None, None]


class RegionRecord(RunRecord):
    """The Regions of one node's runs. needs: what makes the sampler let it act."""

    def __init__(self, node: str = "S-CFG", needs: str = "a sampler with cfg other than 1"):
        super().__init__()
        self._node = node
        self._needs = needs

    def of(self, samples: Tensor) -> Regions:
        """The run that made this latent. ValueError, with the way out, where there is none."""
        run = self.find(samples)
        if run is not None:
            return run
        if not self._runs:
            raise ValueError(
                f"no regions were recorded. Connect the MODEL output of the same {self._node} node to {self._needs}, "
                f"and that sampler's LATENT to this node. {IF_CACHED}"
            )
        raise ValueError(
            f"the latent is not one that a sampler with this {self._node} node returned. Connect the LATENT output of "
            f"that sampler directly. {IF_CACHED}"
        )
