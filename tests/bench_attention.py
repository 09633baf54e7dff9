"""Cost of guidance inside attention, as ratios to plain sampling in the same run: `python dev.py bench-attention`.

One step at cfg 5, with random weights at the real widths, heads and sizes; transformers are reduced to one block, since
all their blocks are changed alike. Time is CPU time, the median over rounds in which all ways take turns; memory is the
peak of what torch holds beyond the weights.
"""

from __future__ import annotations

import argparse
import statistics

from bench_transformers import prompt, sampler
from measuring import peak_bytes, seconds
from topologies import JOINT, VIDEO, Topology, build, sd15, sdxl

# isort: split
import torch

from semantic_guidance.sampling.keep_apart.run import patch_keep_apart
from semantic_guidance.sampling.keep_apart.settings import Settings as Apart
from semantic_guidance.sampling.regional.patch import patch_regional
from semantic_guidance.sampling.regional.region import Region
from semantic_guidance.sampling.regional.run import Settings as Regional
from semantic_guidance.sampling.word_strength.patch import patch_word_strength
from semantic_guidance.sampling.word_strength.settings import Settings as Strength

SHORT = VIDEO._replace(name="Wan 1.3B, 832x480 pixels, 13 frames: 6,240 positions", latent=(16, 4, 60, 104))
TOPOLOGIES = {"sd15": sd15(320), "sdxl": sdxl(320), "joint": JOINT, "video": SHORT}
TWO = ("word 3", "word 7")
LEFT, RIGHT = (torch.zeros(1, 8, 8).index_fill_(2, half, 1.0) for half in torch.arange(8).split(4))


def word_strength(model, topology: Topology, strength: float, mask: torch.Tensor | None = None) -> tuple:
    return patch_word_strength(model, prompt(topology, 0), Strength(TWO, strength, mask=mask), None)[:2]


def keep_apart(model, topology: Topology) -> tuple:
    """It reads maps and acts on them within the one step."""
    return patch_keep_apart(model, Apart(TWO))[0], prompt(topology, 0)


def regional(model, topology: Topology) -> tuple:
    regions = tuple(Region(prompt(topology, seed), place, strength=0.5) for seed, place in ((2, LEFT), (3, RIGHT)))
    return patch_regional(model, prompt(topology, 0), regions, Regional())[:2]


METHODS = {
    "plain": lambda model, topology: (model, prompt(topology, 0)),
    "Word Strength 3": lambda model, topology: word_strength(model, topology, 3.0),
    "Word Strength 2.5": lambda model, topology: word_strength(model, topology, 2.5),
    "Word Strength 2.5, mask": lambda model, topology: word_strength(model, topology, 2.5, LEFT),
    "Keep Apart": keep_apart,
    "Regional Prompts, two": regional,
}


def measure(topology: Topology, rounds: int) -> None:
    model = build(topology)
    runs = {name: sampler(*method(model, topology), topology) for name, method in METHODS.items()}
    peaks = {name: peak_bytes(run) for name, run in runs.items()}  # these also warm up
    taken = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(seconds(run))
    print(f"{topology.name}: {statistics.median(taken['plain']):.2f} s, {peaks['plain'] / 2**20:.0f} MB", flush=True)
    for name in [name for name in runs if name != "plain"]:
        ratios = [one / plain for one, plain in zip(taken[name], taken["plain"], strict=True)]
        print(
            f"  {name}: {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}), "
            f"{(peaks[name] - peaks['plain']) / 2**20:+.1f} MB", flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=TOPOLOGIES)
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else TOPOLOGIES:
        measure(TOPOLOGIES[name], arguments.rounds)


if __name__ == "__main__":
    main()
