"""Pictures of a method on prompts and seeds, judged, and kept so that a page can be written again."""
from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

import torch
from tqdm import tqdm

from semantic_guidance.sampling.meter.run import patch_meter

from ..cache import CACHE
from ..judge import Verdict, judge
from ..loader import WEIGHTS, load_sticker_world
from ..sampling import Method, Settings, decode, sample
from ..world import Prompt
from .scores import atoms_and_features

FOLDER = CACHE / "results"
load_world = cache(lambda model: load_sticker_world(model=model))


@dataclass(frozen=True)
class Picture:
    """One picture judged. features: [96]."""

    prompt: Prompt
    seed: int
    verdict: Verdict
    atoms: tuple[float, ...]
    features: torch.Tensor
    scale: float  # effective CFG scale, mean over the steps; NaN at cfg 1

    @property
    def complete(self) -> bool:
        """Every subject is there, in whatever colour."""
        return all(self.verdict.has(noun) for noun, _ in self.prompt.things)

    @property
    def bound(self) -> bool:
        """Every subject is there, in the colour asked for."""
        return all(self.verdict.has(*thing) for thing in self.prompt.things)


@dataclass(frozen=True)
class Made:
    """The pictures of one method, in the order of prompts and seeds, and its CPU seconds a picture."""

    name: str
    pictures: tuple[Picture, ...]
    seconds: float

    @property
    def scale(self) -> float:
        return fmean(picture.scale for picture in self.pictures)

    @property
    def features(self) -> torch.Tensor:
        return torch.stack([picture.features for picture in self.pictures])


@cache
def fingerprint(model: str) -> str:
    """Of the weights that pictures depend on."""
    files = (WEIGHTS / f"{name}.safetensors" for name in (model, "text_model", "autoencoder", "judge"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def make(
    model: str, name: str, method: Method, prompts: Sequence[Prompt], seeds: Sequence[int], settings: Settings,
) -> Made:
    """Every prompt with every seed. What was made before with the same names, prompts, settings and weights is read."""
    key = f"{fingerprint(model)} {name} {settings} {[p.text for p in prompts]} {list(seeds)}"
    path = FOLDER / f"{model} {name} cfg {settings.cfg:g} {hashlib.sha256(key.encode()).hexdigest()[:12]}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = _make(model, name, method, prompts, seeds, settings)
        torch.save(made, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return torch.load(path, weights_only=False)


def _make(model: str, name: str, method: Method, prompts, seeds, settings: Settings) -> Made:
    world, pictures, start = load_world(model), [], time.process_time()
    records = []

    def metered(model, clip, prompt):
        model, positive = method(model, clip, prompt)
        model, record = patch_meter(model, (), None)
        records.append(record)
        return model, positive

    for prompt in tqdm(prompts, desc=f"{model}, cfg {settings.cfg:g}, {name}"):
        latents = sample(world, prompt.text, seeds, settings, metered)
        scales = torch.stack([step.scale[:, 0] for step in records[-1].of(latents).steps]).nanmean(0).tolist()
        images = decode(world, latents)
        judged = zip(judge(images), *atoms_and_features(images, prompt.things), scales, seeds, strict=True)
        pictures += [
            Picture(prompt, seed, verdict, tuple(atoms.tolist()), features, scale)
            for verdict, atoms, features, scale, seed in judged
        ]
    return Made(name, tuple(pictures), (time.process_time() - start) / len(pictures))


def trained(models: Sequence[str], folder: Path = WEIGHTS) -> list[str]:
    """Those of `models` that have weights."""
    return [model for model in models if (folder / f"{model}.safetensors").is_file()]
