"""What the losses of Attention Loss do in Sticker World: `python -m sticker_world.attention_loss_claims PART`.

Prints a table. losses: subjects apart, Polyak's step and time travel, beside the paper's loss and step. inside: the
first subject in the left half of the picture, the second in the right. size: the first subject small, and large.
Colours are a part of the phrases, and there are 5 refinements at most.
"""
from __future__ import annotations

from . import host  # noqa: F401

# isort: split
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import sqrt
from statistics import fmean, stdev

from node_defaults import defaults

from semantic_guidance.nodes.attend_excite import POLYAK, SemanticGuidanceAttendExcite
from semantic_guidance.nodes.attention_loss import SemanticGuidanceAttentionLoss
from semantic_guidance.nodes.prompt import SemanticGuidancePrompt

from .attend_excite_claims import sign_test, subjects
from .regional import LEFT, RIGHT
from .results.regions import seen
from .sampling import Method, Settings
from .scenes import SIDE
from .ways import BOTH, Part, Result, Way, judged, run_parts
from .world import Outcome

Asked = Callable[[Sequence[str]], list[dict]]  # from a prompt's subjects to the settings of Attention Loss nodes
SIZES = (0.05, 0.35)


def moved(*asked: Asked, missing: bool = False, **settings) -> Method:
    """Attend-and-Excite with these losses. missing: and that no subject may be left out; settings: of the node."""
    def method(model, clip, prompt):
        named, chain = subjects(prompt, colours=True), ()
        for loss in (loss for losses in asked for loss in losses(named)):
            options = {**defaults(SemanticGuidanceAttentionLoss), **loss}
            chain = SemanticGuidanceAttentionLoss.execute(previous=chain, **options).result[0]
        options = {**defaults(SemanticGuidanceAttendExcite), "max_refinements": 5, **settings}
        options["words"] = ", ".join(named) if missing else ""
        patched = SemanticGuidanceAttendExcite.execute(model, losses=chain, **options).result[0]
        return patched, SemanticGuidancePrompt.execute(clip, prompt).result[0]

    return method


def apart(named: Sequence[str]) -> list[dict]:
    return [{"loss": "overlap", "words": ", ".join(named)}]


def in_halves(named: Sequence[str]) -> list[dict]:
    """The first subject on the left and the second on the right."""
    places = [{side: round(value * SIDE) for side, value in box.items()} for box in (LEFT, RIGHT)]
    return [{"loss": "inside", "words": phrase, "where": place} for phrase, place in zip(named, places, strict=True)]


def first_sized(size: float) -> Asked:
    return lambda named: [{"loss": "size", "words": named[0], "size": size}]


def in_half(number: int, outcome: Outcome) -> bool:
    return seen(outcome, number, number, colour=False)


def both_in_halves(outcome: Outcome) -> bool:
    return in_half(0, outcome) and in_half(1, outcome)


def area_of_first(outcome: Outcome) -> float | None:
    """The share of the picture that the box around the first subject takes; None where it is not there."""
    boxes = [one.box for one in outcome.verdict.found if one.noun == outcome.prompt.things[0][0]]
    return max(((right - left) * (bottom - top) for left, top, right, bottom in boxes), default=None)


def areas(result: Result, first: Result) -> Iterator[list[str]]:
    """How large the first subject is, on the pictures of both ways that have it."""
    yield from judged(BOTH)(result, first)
    pairs = [(area_of_first(a), area_of_first(b)) for a, b in zip(result.outcomes, first.outcomes, strict=True)]
    yield ["area of the first, %", *area_cells([(a, b) for a, b in pairs if a is not None and b is not None])]


def mean_cell(values: Sequence[float], sign: str = "") -> str:
    """Their mean, with its 95 % interval."""
    half = 1.96 * stdev(values) / sqrt(len(values))
    mean = fmean(values)
    return f"{mean:{sign}.1f} [{mean - half:{sign}.1f}, {mean + half:{sign}.1f}]"


def area_cells(pairs: Sequence[tuple[float, float]]) -> list[str]:
    """Of areas in pixels, with and without a method: the mean, larger and smaller ones, the difference, a sign test."""
    if len(pairs) < 2:
        return ["-"] * 4
    now, before = ([100 * area / SIDE**2 for area in column] for column in zip(*pairs, strict=True))
    changes = [a - b for a, b in zip(now, before, strict=True)]
    larger, smaller = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    share = f"{mean_cell(now)} in {len(now)}"
    if not larger + smaller:
        return [share, "-", "-", "-"]
    return [share, f"{larger} larger / {smaller} smaller", mean_cell(changes, "+"), f"{sign_test(larger, smaller):.3g}"]


def losses_ways(world, settings: Settings) -> list[Way]:
    return [
        Way("plain CFG", settings),
        Way("missing subject", settings, moved(missing=True)),
        Way("overlap", settings, moved(apart)),
        Way("missing subject + overlap", settings, moved(apart, missing=True)),
        Way("missing subject, Polyak's step", settings, moved(missing=True, step_size=POLYAK)),
        Way("missing subject, steps taken 3 times", settings, moved(missing=True, time_travel=3)),
    ]


def inside_ways(world, settings: Settings) -> list[Way]:
    return [
        Way("plain CFG", settings),
        Way("missing subject", settings, moved(missing=True)),
        Way("inside", settings, moved(in_halves)),
        Way("missing subject + inside", settings, moved(in_halves, missing=True)),
    ]


def size_ways(world, settings: Settings) -> list[Way]:
    return [
        Way("plain CFG", settings),
        Way("missing subject", settings, moved(missing=True)),
        *(Way(f"size {size:g}", settings, moved(first_sized(size))) for size in SIZES),
    ]


HALVES = judged(BOTH | {
    "the first on the left": partial(in_half, 0), "the second on the right": partial(in_half, 1),
    "both in their halves": both_in_halves,
})
PARTS = {"losses": Part(losses_ways), "inside": Part(inside_ways, HALVES), "size": Part(size_ways, areas)}

if __name__ == "__main__":
    run_parts(PARTS, __doc__)
