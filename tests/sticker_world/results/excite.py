"""Attend-and-Excite with as many refinements at most as the paper has, with five, and with none."""
from __future__ import annotations

from semantic_guidance.guidance.attend_excite import Excitation

from ..attend_excite_claims import Chosen, excited, pair_prompts
from ..sampling import plain
from .page import Plot, Plots, Section, Size, Table, Tables, bound, compared, complete, grouped, starts, tifa
from .pictures import make
from .plots import bars

REFINEMENTS = (0, 5, 20)
PROMPTS = 311  # the seed of the prompts
STEPS = 12
TITLE = "Attend-and-Excite"


def plots(tables: Tables) -> Plots:
    models = starts(tables[TITLE])
    shares = grouped(tables[TITLE], models, "colours too, %")
    yield Plot("excite", bars("Both subjects, in the colours asked for", models, shares))


def measure(models: list[str], size: Size) -> Section:
    prompts = size.some(pair_prompts(max(size.prompts - 2, 1), PROMPTS))
    seeds = range(600, 600 + size.seeds)
    rows = []
    for model in (model for model in models if model != "cross"):  # it has no gradient
        settings = size.settings(model, STEPS)
        made = [make(model, "plain CFG", plain, prompts, seeds, settings)]
        for count in REFINEMENTS:
            chosen = Chosen(f"A&E, {count} refinements", Excitation(max_refinements=count), colours=True)
            made.append(make(model, chosen.name, excited(chosen), prompts, seeds, settings))
        for one in made:
            rows.append([f"{model}, {one.name}", *compared(made[0], one, complete), *compared(made[0], one, bound),
                         *tifa(one), f"{one.seconds / made[0].seconds:.2f}"])
    yield Table([TITLE, "both present, %", "mended / broken", "points", "p", "colours too, %",
                 "mended / broken", "points", "p", "atoms", "prompts", "time"], rows)
