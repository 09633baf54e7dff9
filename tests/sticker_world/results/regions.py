"""Regional Prompts: a subject in each half of the picture, against the host's ConditioningSetMask."""
from __future__ import annotations

from functools import partial

from ..attend_excite_claims import pair_prompts
from ..regional import LEFT, RIGHT, with_masks, with_regions
from ..sampling import Method, plain
from ..scenes import SIDE
from .page import Plot, Plots, Section, Size, Table, Tables, grouped, percent, share_of, starts, tifa
from .pictures import Picture, make
from .plots import bars

PROMPTS, SEEDS, STEPS = 401, 1200, 12
CFGS = (1.0, 5.0)
TITLE = "a subject in each half"


def half_of(method) -> Method:
    """The first subject on the left and the second on the right."""
    def patched(model, clip, prompt):
        return method([(text, half) for text, half in zip(prompt.split(" and "), (LEFT, RIGHT), strict=True)])(
            model, clip, prompt)

    return patched


METHODS = {"prompt alone": plain, "ConditioningSetMask": half_of(with_masks)} | {
    f"Regional Prompts, {strength:g}": half_of(partial(with_regions, region={"strength": strength}))
    for strength in (0.5, 0.8)
}


def seen(picture: Picture, number: int, side: int, colour: bool = True) -> bool:
    """Whether a subject, in its colour, has its centre on this side (0: left)."""
    noun, shade = picture.prompt.things[number]
    return any(
        one.noun == noun and (not colour or shade in (None, one.colour))
        and ((one.box[0] + one.box[2]) / 2 >= SIDE / 2) == bool(side)
        for one in picture.verdict.found
    )


def plots(tables: Tables) -> Plots:
    groups = starts(tables[TITLE], 2)
    shares = grouped(tables[TITLE], groups, "both in theirs, %")
    yield Plot("regions", bars("Both subjects in their halves, in the colours asked for", groups, shares))


def measure(models: list[str], size: Size) -> Section:
    prompts = size.some(pair_prompts(max(size.prompts - 4, 1), PROMPTS))
    seeds = range(SEEDS, SEEDS + max(size.seeds - 1, 1))
    rows = []
    for model in models:
        for cfg in CFGS:
            settings = size.settings(model, STEPS, cfg=cfg)
            made = [make(model, f"regions, {name}", method, prompts, seeds, settings)
                    for name, method in METHODS.items()]
            for name, one in zip(METHODS, made, strict=True):
                subjects = [(picture, number) for picture in one.pictures for number in (0, 1)]
                own = share_of([seen(picture, number, number) for picture, number in subjects])
                other = share_of([seen(picture, number, 1 - number, colour=False) for picture, number in subjects])
                both = share_of([all(seen(picture, number, number) for number in (0, 1)) for picture in one.pictures])
                rows.append([f"{model}, cfg {cfg:g}, {name}", *map(percent, (own, other, both)), *tifa(one),
                             f"{one.seconds / made[0].seconds:.2f}"])
    yield Table([TITLE, "in its half, %", "in the other's, %", "both in theirs, %", "atoms",
                 "prompts", "time"], rows)
