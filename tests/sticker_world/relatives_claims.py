"""What the papers' relatives do in Sticker World: `python -m sticker_world.relatives_claims PART`. Prints a table.

bind: phrases bound in Prompt with Words, against plain CFG and Attend-and-Excite. schedule: presets of Guidance
Schedule, each with the factor that gives its steps the mean scale of plain CFG. characteristic: Characteristic Guidance
at a high scale, against plain CFG there and at the effective scale that it amounts to. Prompts, seeds and noise are the
same for all methods of a table; scales are what Guidance Meter measured. Brackets are 95 % intervals.
"""
from __future__ import annotations

from . import host  # noqa: F401

# isort: split
import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import comfy.samplers

from semantic_guidance.guidance.attend_excite import Excitation
from semantic_guidance.guidance.schedules import SHAPES
from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.sampling.characteristic.run import Settings as CharacteristicSettings
from semantic_guidance.sampling.characteristic.run import patch_characteristic
from semantic_guidance.sampling.meter.run import patch_meter
from semantic_guidance.sampling.percent import percent_at
from semantic_guidance.sampling.schedule import run as schedule

from .attend_excite_claims import Chosen, bound, excited, pair_prompts, paired, subjects
from .loader import load_sticker_world
from .sampling import Method, Settings, encode, plain
from .world import Outcome, Prompt, evaluate, wilson

SEED = 31  # of the prompts
HIGH = 12.0  # the scale of Characteristic Guidance, which is meant for 10 to 30
ALL_SEEN = "both present"
TESTS = {
    ALL_SEEN: Outcome.complete.fget,
    "colours as asked": bound,
    "nothing else": lambda outcome: not outcome.verdict.unknown,
}


class Way(NamedTuple):
    """A way to make pictures: a row of a table."""

    name: str
    settings: Settings
    method: Method = plain
    matched: bool = False  # whether cfg is to be the effective scale of the way before it


class Result(NamedTuple):
    outcomes: list[Outcome]
    scale: float  # the effective CFG scale, mean over steps and pictures
    seconds: float  # of CPU time


def binding(model, clip, prompt: str):
    phrases = ", ".join(subjects(prompt, colours=True))
    return model, SemanticGuidancePrompt.execute(clip, prompt, phrases).result[0]


def scheduled(**settings) -> Method:
    return lambda model, clip, prompt: (
        schedule.patch_schedule(model, schedule.Settings(**settings)), encode(clip, prompt))


def characteristic(model, clip, prompt: str):
    return patch_characteristic(model, CharacteristicSettings()), encode(clip, prompt)


def mean_shape(world, preset: str, settings: Settings) -> float:
    """The mean of a preset's factor over the steps of a run."""
    sampling = world[0].get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, settings.scheduler, settings.steps)[:-1].tolist()
    return sum(SHAPES[preset](percent_at(sampling, sigma)) for sigma in sigmas) / len(sigmas)


def measured(world, prompts: Sequence[Prompt], seeds: Sequence[int], way: Way) -> Result:
    scales: list[float] = []
    records = []

    def method(model, clip, prompt):
        model, positive = way.method(model, clip, prompt)
        model, record = patch_meter(model, (), None)
        records.append(record)
        return model, positive

    start = time.process_time()
    outcomes = evaluate(world, prompts, seeds, way.settings, method)
    taken = time.process_time() - start
    for record in records:
        (run,) = record._runs
        scales += [float(value) for step in run.steps for value in step.scale[:, 0] if value == value]
    return Result(outcomes, sum(scales) / max(len(scales), 1), taken)


def show(name: str, result: Result, first: Result) -> None:
    """A way's rows, beside the first way."""
    for title, test in TESTS.items():
        flags, before = ([bool(test(outcome)) for outcome in one.outcomes] for one in (result, first))
        low, high = (100 * end for end in wilson(sum(flags), len(flags)))
        share = f"{sum(flags)} of {len(flags)}: {100 * sum(flags) / len(flags):.0f} % [{low:.0f}, {high:.0f}]"
        head = " | | "
        if title == ALL_SEEN:
            head = f"{name} | {result.scale:.2f} | {result.seconds / first.seconds:.2f}"
        beside = ["-", "-", "-"] if result is first else paired(before, flags)
        print(f"| {head} | {title} | {share} | {' | '.join(beside)} |", flush=True)


def bind_ways(world, settings: Settings) -> list[Way]:
    excite = Chosen("", Excitation(max_refinements=5), colours=True)
    return [Way("plain CFG", settings), Way("phrases bound", settings, binding),
            Way("A&E, 5 refinements", settings, excited(excite))]


def schedule_ways(world, settings: Settings) -> list[Way]:
    ways = [Way("plain CFG", settings)]
    for preset in ("linear", "inverse linear"):
        factor = 1 / mean_shape(world, preset, settings)
        ways.append(Way(f"{preset}, factor {factor:.2f}", settings, scheduled(preset=preset, factor=factor)))
    return ways


def characteristic_ways(world, settings: Settings) -> list[Way]:
    high = replace(settings, cfg=HIGH)
    return [Way(f"plain CFG at {HIGH:g}", high), Way(f"Characteristic Guidance at {HIGH:g}", high, characteristic),
            Way("plain CFG at that effective scale", settings, matched=True)]


PARTS = {"bind": bind_ways, "schedule": schedule_ways, "characteristic": characteristic_ways}
HEAD = """
| method | effective scale | CPU time | what | share [95 %] | mended / broken | points [95 %] | p |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--pairs", type=int, default=5, help="prompts of each of four kinds (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="pictures of each prompt (%(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="sampling steps (%(default)s)")
    args = parser.parse_args()
    settings = replace(Settings(), steps=args.steps)
    world, prompts = load_sticker_world(), pair_prompts(args.pairs, SEED)
    known: dict[str, Result] = {}
    for part in args.parts:
        first, *others = PARTS[part](world, settings)
        print(f"\n{part}: {len(prompts)} prompts, {args.seeds} seeds, {first.settings}\n{HEAD}", flush=True)
        scale = first.settings.cfg
        for way in (first, *others):
            if way.matched:
                way = way._replace(settings=replace(way.settings, cfg=scale))
            if way.name not in known:
                known[way.name] = measured(world, prompts, range(args.seeds), way)
            scale = known[way.name].scale
            show(way.name, known[way.name], known[first.name])


if __name__ == "__main__":
    main()
