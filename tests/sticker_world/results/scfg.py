"""S-CFG against plain CFG at the same effective scale: subjects, colours, and the distance to composed scenes.

S-CFG samples at three scales; the effective scale of its pictures, mean over steps, is then the scale of plain CFG. The
difference of their distances has a bootstrap interval, over pictures of the same prompt and seed. The spread is the sum
of the features' variances, in units of that of the scenes.
"""
from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.sampling.scfg.run import Settings, patch_scfg

from ..sampling import plain
from ..scenes import draw
from ..world import Prompt, benchmark_prompts
from .page import Plot, Plots, Section, Size, Table, Tables, bound, compared, complete, tifa
from .pictures import load_world, make
from .plots import curves
from .scores import atoms_and_features, frechet

SCALES = (3.0, 5.0, 8.0)
STEPS = 12
DRAWS = 200  # of the bootstrap
TITLE, METHODS = "S-CFG", ("plain CFG", "S-CFG")


def scfg(model, clip, prompt):
    model, _ = patch_scfg(model, Settings())
    return model, SemanticGuidancePrompt.execute(clip, prompt).result[0]


@torch.inference_mode()
def composed(prompts: Sequence[Prompt], count: int) -> torch.Tensor:
    """Features of `count` truthful scenes of each prompt, through the autoencoder. [prompts * count, 96]."""
    rng = random.Random(7)
    vae = load_world("unet")[2]
    features = []
    for prompt in prompts:
        images = torch.stack([torch.from_numpy(draw(list(prompt.things), rng)[0]) for _ in range(count)]) / 255
        features.append(atoms_and_features(vae.decode(vae.encode(images)), prompt.things)[1])
    return torch.cat(features)


def spread(features: torch.Tensor) -> float:
    return float(features.var(dim=0).sum())


def difference(base: torch.Tensor, guided: torch.Tensor, truth: torch.Tensor) -> str:
    """How much farther from `truth` the features `guided` are than `base`, with its 95 % interval."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randint(len(base), (len(base),), generator=generator) for _ in range(DRAWS)]
    values = torch.tensor([frechet(guided[draw], truth) - frechet(base[draw], truth) for draw in draws])
    low, high = values.quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{frechet(guided, truth) - frechet(base, truth):+.3f} [{low:+.3f}, {high:+.3f}]"


def plots(tables: Tables) -> Plots:
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, row in tables[TITLE].items():
        model, method, _ = name.split(", ")
        points = panels.setdefault(model, {method: [] for method in METHODS})[method]
        points.append((float(row["effective scale"]), float(row["Fréchet distance"])))
    yield Plot("scfg", curves("Distance to composed scenes (less is nearer)", panels, "effective CFG scale",
                              "Fréchet distance"))


def measure(models: list[str], size: Size) -> Section:
    prompts, seeds = size.some(benchmark_prompts(size.prompts)), range(100, 100 + 2 * size.seeds - 1)
    truth = composed(prompts, len(seeds))
    rows = []
    for model in models:
        for cfg in SCALES:
            guided = make(model, METHODS[1], scfg, prompts, seeds, size.settings(model, STEPS, cfg=cfg))
            scale = round(guided.scale, 2)
            base = make(model, METHODS[0], plain, prompts, seeds, size.settings(model, STEPS, cfg=scale))
            for made, asked in ((base, scale), (guided, cfg)):
                beside = "-" if made is base else difference(base.features, guided.features, truth)
                rows.append([f"{model}, {made.name}, cfg {asked:g}", f"{made.scale:.2f}",
                             *compared(base, made, complete), *compared(base, made, bound), *tifa(made),
                             f"{frechet(made.features, truth):.3f}", beside,
                             f"{spread(made.features) / spread(truth):.3f}", f"{made.seconds / base.seconds:.2f}"])
    yield Table([TITLE, "effective scale", "all present, %", "mended / broken", "points", "p", "colours too, %",
                 "mended / broken", "points", "p", "atoms", "prompts", "Fréchet distance", "beside plain CFG", "spread",
                 "time"], rows)
