"""SEGA: edits of pictures that show what their prompt names."""
from __future__ import annotations

from semantic_guidance.guidance.sega import Edit
from semantic_guidance.sampling.sega.concepts import Concept

from ..sega_claims import measure as edited
from ..sega_claims import tasks
from .page import Plot, Section, Size, Table, share_of
from .pictures import load_world, settings_of
from .plots import bars

KINDS = ("recolour", "remove")
SCALES = (5.0, 10.0, 20.0)


def measure(models: list[str], size: Size) -> Section:
    every = tasks(max(size.prompts // 3, 1), seed=11)
    for kind in KINDS:
        chosen = [task for task in every if task.kind == kind]
        rows, shares = [], {}
        for model in models:
            cells = edited(
                load_world(model), chosen, range(300, 300 + size.seeds), SCALES, Edit(), Concept.warmup,
                settings_of(model),
            )
            rows += [[f"{model}, {name}", *cell.row()] for name, cell in cells.items()]
            for name, cell in cells.items():
                shares.setdefault(name, []).append(share_of(cell.success))
        yield Table([f"SEGA: {kind}", "success", "rest still there", "change elsewhere"], rows)
        yield Plot(f"sega_{kind}", bars(f"SEGA: {kind}", models, shares))
