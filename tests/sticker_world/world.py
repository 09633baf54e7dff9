"""How well does plain classifier-free guidance do in Sticker World? `python -m sticker_world.world --help`.

`evaluate` takes any method, so that A&E, S-CFG and the others are judged on the same prompts and seeds.
"""
from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import sqrt

from . import host  # noqa: F401

# isort: split
from tqdm import tqdm

from .judge import Verdict, judge
from .loader import MODELS, load_sticker_world
from .sampling import SETTINGS, Method, Settings, generate, plain
from .scenes import ANIMALS, HELD_OUT_PAIRS, NOUNS, OBJECTS, allowed_colours, caption
from .train_judge import measure

Thing = tuple[str, str | None]


@dataclass(frozen=True)
class Prompt:
    """A prompt, the subjects it names, and the group it is counted in."""

    group: str
    things: tuple[Thing, ...]

    @property
    def text(self) -> str:
        return caption(list(self.things))


@dataclass(frozen=True)
class Outcome:
    """One picture judged."""

    prompt: Prompt
    seed: int
    verdict: Verdict

    @property
    def complete(self) -> bool:
        """Every subject is there (in whatever colour)."""
        return all(self.verdict.has(noun) for noun, _ in self.prompt.things)


def benchmark_prompts(pairs: int = 14, seed: int = 20) -> list[Prompt]:
    """Every noun alone, and `pairs` pairs of each kind, held-out pairs apart; colours as in training."""
    rng = random.Random(seed)

    def things(nouns: Iterable[str]) -> tuple[Thing, ...]:
        return tuple((noun, rng.choice(allowed_colours(noun)) if noun in OBJECTS else None) for noun in nouns)

    prompts = [Prompt("single", things([noun])) for noun in NOUNS]
    every = [pair for pair in combinations(NOUNS, 2) if frozenset(pair) not in HELD_OUT_PAIRS]
    kinds = {"animal-animal": 2, "animal-object": 1, "object-object": 0}
    for kind, animals in kinds.items():
        fitting = [pair for pair in every if sum(noun in ANIMALS for noun in pair) == animals]
        prompts += [Prompt(kind, things(pair)) for pair in rng.sample(fitting, pairs)]
    held_out = sorted(tuple(sorted(pair, key=NOUNS.index)) for pair in HELD_OUT_PAIRS)
    return prompts + [Prompt("held-out", things(pair)) for pair in rng.sample(held_out, pairs)]


def evaluate(
    world: tuple, prompts: Sequence[Prompt], seeds: Sequence[int], settings: Settings | None = None,
    method: Method = plain,
) -> list[Outcome]:
    """Generate and judge every prompt with every seed. The same prompts and seeds give pairs that can be compared."""
    outcomes = []
    for prompt in tqdm(prompts, desc="prompts"):
        verdicts = judge(generate(world, prompt.text, seeds, settings, method))
        outcomes += [Outcome(prompt, seed, verdict) for seed, verdict in zip(seeds, verdicts, strict=True)]
    return outcomes


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    if count == 0:
        return 0.0, 1.0
    share = hits / count
    centre = share + z * z / (2 * count)
    spread = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def share(flags: Iterable[bool]) -> tuple[int, int]:
    flags = list(flags)
    return sum(flags), len(flags)


def row(name: str, hits: int, count: int) -> str:
    low, high = wilson(hits, count)
    return f"{name:<30}{hits:>5} /{count:>4}  {hits / max(count, 1):.3f}  [{low:.3f}, {high:.3f}]"


def rate(counted: tuple[int, int]) -> float:
    return counted[0] / max(counted[1], 1)


def summary(outcomes: list[Outcome]) -> dict[str, tuple[int, int]]:
    """Counts (hits, of how many) by name."""
    groups = dict.fromkeys(outcome.prompt.group for outcome in outcomes)
    counts = {f"{name}: all present": share(o.complete for o in outcomes if o.prompt.group == name) for name in groups}
    pairs = [o for o in outcomes if o.prompt.group not in ("single", "held-out")]
    counts["pairs: both present"] = share(o.complete for o in pairs)
    found = [(o.verdict, thing) for o in outcomes for thing in o.prompt.things if thing[1] and o.verdict.has(thing[0])]
    counts["binding: colour as asked"] = share(verdict.has(*thing) for verdict, thing in found)
    incomplete = [o for o in outcomes if len(o.prompt.things) > 1 and not o.complete]
    counts["failed pairs: absent"] = share(not o.verdict.unknown for o in incomplete)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="which of its models (%(default)s)")
    parser.add_argument("--seeds", type=int, default=4, help="pictures for each prompt (%(default)s)")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--cfg", type=float, nargs="+", default=[Settings.cfg], help="one scale, or several to compare")
    args = parser.parse_args()
    accuracy = measure(None, count=200)
    world = load_sticker_world(model=args.model)
    for cfg in args.cfg:
        settings = replace(SETTINGS[args.model], steps=args.steps, cfg=cfg)
        outcomes = evaluate(world, benchmark_prompts(), range(args.seeds), settings)
        counts = summary(outcomes)
        print(f"{args.model}, plain CFG, scale {cfg}, {args.steps} steps, {args.seeds} seeds: share [95 % interval]")
        print("\n".join(row(name, *counted) for name, counted in counts.items()))
        print(
            f"single={rate(counts['single: all present']):.2f} pair_both={rate(counts['pairs: both present']):.2f} "
            f"heldout_both={rate(counts['held-out: all present']):.2f} "
            f"binding={rate(counts['binding: colour as asked']):.2f} judge={accuracy['composed']['nouns']:.3f}"
        )


if __name__ == "__main__":
    main()
