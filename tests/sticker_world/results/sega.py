"""SEGA: edits of pictures that show what their prompt names."""
from __future__ import annotations

from semantic_guidance.guidance.sega import Edit
from semantic_guidance.sampling.sega.concepts import Concept

from ..sega_claims import measure as edited
from ..sega_claims import tasks
from .page import Plot, Plots, Section, Size, Table, Tables, grouped, percent, share_of, starts
from .pictures import load_world
from .plots import bars

KINDS = ("recolour", "add", "remove", "two edits", "three edits")
PLOTTED = ("recolour", "remove")
SCALES = (5.0, 10.0, 20.0)


def plots(tables: Tables) -> Plots:
    for kind in PLOTTED:
        rows = tables.get(f"SEGA: {kind}")
        if not rows:  # no picture showed what its prompt names
            continue
        models = starts(rows)
        yield Plot(f"sega_{kind}", bars(f"SEGA: {kind}", models, grouped(rows, models, "success, %")))


def measure(models: list[str], size: Size) -> Section:
    every = tasks(max(2 * size.prompts // 3, 1), seed=11)
    for kind in KINDS:
        chosen = [task for task in every if task.kind == kind]
        rows = []
        for model in models:
            cells = edited(
                load_world(model), chosen, range(300, 300 + size.seeds), SCALES, Edit(), Concept.warmup,
                size.settings(model),
            )
            rows += [
                [f"{model}, {name}", str(len(cell.success)), percent(share_of(cell.success)),
                 percent(share_of(cell.intact)), cell.row()[-1]]
                for name, cell in cells.items()
            ]
        yield Table([f"SEGA: {kind}", "pictures", "success, %", "rest still there, %", "change elsewhere"], rows)
