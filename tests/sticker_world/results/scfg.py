"""S-CFG against plain CFG at the same effective scale: subjects, colours, and the distance to composed scenes.

S-CFG samples at three scales; the effective scale of its pictures, mean over steps, is then the scale of plain CFG.
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
from .page import Plot, Section, Size, Table, bound, compared, complete, tifa
from .pictures import load_world, make, settings_of
from .plots import curves
from .scores import atoms_and_features, frechet

SCALES = (3.0, 5.0, 8.0)
STEPS = 12


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


def measure(models: list[str], size: Size) -> Section:
    prompts, seeds = benchmark_prompts(size.prompts), range(100, 100 + 2 * size.seeds - 1)
    truth = composed(prompts, len(seeds))
    rows, panels = [], {}
    for model in models:
        points = panels[model] = {"plain CFG": [], "S-CFG": []}
        for cfg in SCALES:
            guided = make(model, "S-CFG", scfg, prompts, seeds, settings_of(model, cfg=cfg, steps=STEPS))
            scale = round(guided.scale, 2)
            base = make(model, "plain CFG", plain, prompts, seeds, settings_of(model, cfg=scale, steps=STEPS))
            for made in (base, guided):
                distance = frechet(made.features, truth)
                points[made.name].append((scale, distance))
                rows.append([model, made.name, f"{scale if made is base else cfg:g}", f"{made.scale:.2f}",
                             *compared(base, made, complete), *compared(base, made, bound), *tifa(made),
                             f"{distance:.3f}", f"{made.seconds / base.seconds:.2f}"])
    yield Table(["S-CFG: model", "method", "cfg", "effective scale", "all present, %", "mended / broken", "points", "p",
                 "colours too, %", "mended / broken", "points", "p", "atoms", "prompts", "Fréchet distance", "time"],
                rows)
    yield Plot("scfg", curves("Distance to composed scenes (less is nearer)", panels, "effective CFG scale",
                              "Fréchet distance"))
