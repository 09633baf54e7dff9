"""Ways to make pictures of two subjects, measured beside each other: each is some rows of a table in Markdown.

Prompts, seeds and noise are the same for all ways of a table; scales are what Guidance Meter measured. Brackets are
95 % intervals.
"""
from __future__ import annotations

from . import host  # noqa: F401

# isort: split
import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from semantic_guidance.sampling.meter.run import patch_meter

from .attend_excite_claims import bound, pair_prompts, paired
from .loader import load_sticker_world
from .sampling import Method, Settings, plain
from .world import Outcome, Prompt, evaluate, wilson

SEED = 31  # of the prompts
HEAD = """
| method | effective scale | CPU time | what | share [95 %] | mended / broken | points [95 %] | p |
|---|---|---|---|---|---|---|---|"""


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


Test = Callable[[Outcome], bool]
Rows = Callable[[Result, Result], Iterator[list[str]]]  # of a way, and of the one that it is compared with
BOTH = {"both present": Outcome.complete.fget, "colours as asked": bound}


def judged(tests: dict[str, Test]) -> Rows:
    """How many pictures pass each test."""
    def rows(result: Result, first: Result) -> Iterator[list[str]]:
        for title, test in tests.items():
            flags, before = ([test(outcome) for outcome in one.outcomes] for one in (result, first))
            low, high = (100 * end for end in wilson(sum(flags), len(flags)))
            share = f"{sum(flags)} of {len(flags)}: {100 * sum(flags) / len(flags):.0f} % [{low:.0f}, {high:.0f}]"
            yield [title, share, *(["-", "-", "-"] if result is first else paired(before, flags))]

    return rows


class Part(NamedTuple):
    """A table."""

    ways: Callable[[tuple, Settings], list[Way]]
    rows: Rows = judged(BOTH)


def measured(world, prompts: Sequence[Prompt], seeds: Sequence[int], way: Way) -> Result:
    records = []

    def method(model, clip, prompt):
        model, positive = way.method(model, clip, prompt)
        model, record = patch_meter(model, (), None)
        records.append(record)
        return model, positive

    start = time.process_time()
    outcomes = evaluate(world, prompts, seeds, way.settings, method)
    taken = time.process_time() - start
    steps = [step for record in records for run in record._runs for step in run.steps]
    scales = [float(value) for step in steps for value in step.scale[:, 0] if value == value]
    return Result(outcomes, sum(scales) / max(len(scales), 1), taken)


def show(name: str, result: Result, first: Result, rows: Rows) -> None:
    """A way's rows, beside another way."""
    head = f"{name} | {result.scale:.2f} | {result.seconds / first.seconds:.2f}"
    for cells in rows(result, first):
        print(f"| {head} | {' | '.join(cells)} |", flush=True)
        head = " | | "


def run_parts(parts: dict[str, Part], description: str) -> None:
    """The command line: the tables of the parts that are asked for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=parts)
    parser.add_argument("--pairs", type=int, default=5, help="prompts of each of four kinds (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="pictures of each prompt (%(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="sampling steps (%(default)s)")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("medium")  # bfloat16 products, where the CPU has them
    settings = replace(Settings(), steps=args.steps)
    world, prompts, seeds = load_sticker_world(), pair_prompts(args.pairs, SEED), range(args.seeds)
    known: dict[tuple[str, Settings], Result] = {}
    for part in args.parts:
        (first, *others), rows = parts[part].ways(world, settings), parts[part].rows
        print(f"\n{part}: {len(prompts)} prompts, {args.seeds} seeds, {first.settings}\n{HEAD}", flush=True)
        before, name = None, ""
        for way in (first, *others):
            if way.matched:
                way = way._replace(settings=replace(way.settings, cfg=before.scale))
            key = way.name, way.settings
            if key not in known:
                known[key] = measured(world, prompts, seeds, way)
            show(way.name, known[key], known[first.name, first.settings], rows)
            if way.matched:
                show(f"{name}, beside that", before, known[key], rows)
            before, name = known[key], way.name
