"""Attend-and-Excite with as many refinements at most as the paper has, with five, and with none."""
from __future__ import annotations

from semantic_guidance.guidance.attend_excite import Excitation

from ..attend_excite_claims import Chosen, excited, pair_prompts
from ..sampling import plain
from .page import Plot, Section, Size, Table, bound, compared, complete, share_of, tifa
from .pictures import make, settings_of
from .plots import bars

REFINEMENTS = (0, 5, 20)
PROMPTS = 311  # the seed of the prompts


def measure(models: list[str], size: Size) -> Section:
    prompts = pair_prompts(max(size.prompts - 2, 1), PROMPTS)
    seeds = range(600, 600 + size.seeds)
    rows, shares = [], {}
    for model in (model for model in models if model != "cross"):  # it has no gradient
        made = [make(model, "plain CFG", plain, prompts, seeds, settings_of(model))]
        for count in REFINEMENTS:
            chosen = Chosen(f"A&E, {count} refinements", Excitation(max_refinements=count), colours=True)
            made.append(make(model, chosen.name, excited(chosen), prompts, seeds, settings_of(model)))
        for one in made:
            rows.append([f"{model}, {one.name}", *compared(made[0], one, complete), *compared(made[0], one, bound),
                         *tifa(one), f"{one.seconds / made[0].seconds:.2f}"])
            shares.setdefault(one.name, []).append(share_of([picture.bound for picture in one.pictures]))
    yield Table(["Attend-and-Excite", "both present, %", "mended / broken", "points", "p", "colours too, %",
                 "mended / broken", "points", "p", "atoms", "prompts", "time"], rows)
    yield Plot("excite", bars("Both subjects, in the colours asked for", [m for m in models if m != "cross"], shares))
