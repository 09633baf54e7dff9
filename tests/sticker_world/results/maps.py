"""Where words are, block by block: maps of one block at a time against scenes whose truth is known."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from semantic_guidance.attention_hooks.families import layers_at, model_layers
from semantic_guidance.attention_hooks.layouts import Layer
from semantic_guidance.attention_hooks.token_maps import Capture
from semantic_guidance.sampling import word_mask

from ..loader import MODELS
from ..word_masks import DEFAULT, GROUPS, REPORTING, THRESHOLDS, Setting, World, interval, measure_masks
from .page import Plot, Plots, Section, Size, Table, Tables
from .plots import curves

HALF = THRESHOLDS.index(0.5)


class Pooled(Capture):
    """Completes maps between cells of 2 x 2 positions, on small grids as well."""

    def _pools(self, layer_grid):
        return True


WAYS = {"raw": (Capture, "none"), "completed, pooled": (Pooled, "power series"),
        "completed, full": (Capture, "power series")}


@contextmanager
def reading(layers: list[Layer] | None, capture: type[Capture]) -> Iterator[None]:
    """Word Mask reads these layers (None: those that it chooses itself) in this way."""
    chosen = layers_at if layers is None else lambda *_: (layers[0].downsample, layers)
    with patch.object(word_mask, "layers_at", chosen), patch.object(word_mask, "Capture", capture):
        yield


def title(model: str) -> str:
    return f"{model}, block"


def plots(tables: Tables) -> Plots:
    panels = {}
    for model in (model for model in MODELS if title(model) in tables):
        blocks = {int(name.split()[-1]): row for name, row in tables[title(model)].items() if name[-1].isdigit()}
        panels[model] = {way: [(block, float(row[f"{way}: pairs, IoU"])) for block, row in blocks.items()]
                         for way in WAYS}
    yield Plot("maps", curves("IoU of words in pairs, by block", panels, "block", "IoU at threshold 0.5"))


def measure(models: list[str], size: Size) -> Section:
    whole = []
    for model in models:
        world = World(model)
        views = {group: world.views(size.scenes, REPORTING, subjects) for group, subjects in GROUPS.items()}
        found = {group: measure_masks(world, some, DEFAULT) for group, some in views.items()}
        whole.append([model] + [interval(values) for group in found.values() for scores in group.values()
                                for values in (scores.hard[:, HALF], scores.pointing)])
        if model == "unet":
            continue
        few = {group: some[: max(size.scenes // 4, 1)] for group, some in views.items()}
        table = []
        blocks = [[layer] for layer in model_layers(world.model, "results")]
        for name, layers in [*((f"{b[0].block[0]} {b[0].block[1]}", b) for b in blocks), ("the node's choice", None)]:
            row = [name]
            for capture, completion in WAYS.values():
                with reading(layers, capture):
                    scores = [measure_masks(world, some, Setting(DEFAULT.noise_level, completion, None))["noun"]
                              for some in few.values()]
                row += [f"{values.mean():.3f}" for one in scores for values in (one.hard[:, HALF], one.pointing)]
            table.append(row)
        head = [title(model)]
        head += [f"{way}: {group}, {what}" for way in WAYS for group in GROUPS for what in ("IoU", "pointing")]
        yield Table(head, table)
    head = [f"{group}, {kind}" for group in GROUPS for kind in ("noun", "phrase")]
    yield Table(["Word Mask", *(f"{column}, {what}" for column in head for what in ("IoU", "pointing"))], whole)
