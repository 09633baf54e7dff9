"""Sampling with and without Regional Prompts on tiny models, through the nodes that a user has."""

from __future__ import annotations

from typing import NamedTuple

import torch
from host import sega_runs, tiny
from host.sega_runs import SIZE, defaults
from torch import Tensor

from semantic_guidance.nodes.region import SemanticGuidanceRegion
from semantic_guidance.nodes.regions import SemanticGuidanceRegions
from semantic_guidance.sampling.conds import REGIONS_KEY
from semantic_guidance.sampling.region_record import RegionRecord

LEFT, RIGHT, WHOLE = torch.zeros(1, *SIZE), torch.ones(1, *SIZE), torch.ones(1, *SIZE)
LEFT[..., : SIZE[1] // 2] = 1
RIGHT[..., : SIZE[1] // 2] = 0
HALVES = ({"where": LEFT}, {"where": RIGHT})


class Regional(NamedTuple):
    model: object
    positive: list
    record: RegionRecord

    def run(self, **kwargs) -> Tensor:
        return sega_runs.run(self.model, positive=self.positive, **kwargs)


def region(prompt: int | list = 2, previous: tuple = (), **settings) -> tuple:
    """A chain of regions with one more; on the left unless told otherwise."""
    conditioning = tiny.prompt(prompt) if isinstance(prompt, int) else prompt
    settings = {**defaults(SemanticGuidanceRegion), "where": LEFT, "strength": 1.0, **settings}
    return SemanticGuidanceRegion.execute(conditioning, previous=previous, **settings).result[0]


def chain(*settings: dict) -> tuple:
    """Regions with prompts of their own."""
    regions = ()
    for number, item in enumerate(settings):
        regions = region(**{"prompt": 2 + number, "previous": regions, **item})
    return regions


def regional(model, *settings: dict, base: list | None = None, **options) -> Regional:
    """Two halves without settings of regions. options: of Regional Prompts."""
    base = tiny.prompt(0) if base is None else base
    options = {**defaults(SemanticGuidanceRegions), **options}
    return Regional(*SemanticGuidanceRegions.execute(model, base, chain(*(settings or HALVES)), **options).result)


def in_regions(model, *settings: dict, **options):
    """A model that samples any positive prompt with regions, as if it came from the node."""
    made = regional(model, *(settings or HALVES[:1]), **options)
    mark = made.positive[0][1][REGIONS_KEY]

    def outer_sample(executor, *args, **kwargs):
        for name, conds in executor.class_obj.conds.items():
            for cond in conds if name != "negative" else ():
                cond[REGIONS_KEY] = mark
        return executor(*args, **kwargs)

    made.model.add_wrapper_with_key("outer_sample", "test", outer_sample)
    return made.model
