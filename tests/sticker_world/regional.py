"""Sampling methods with prompts for parts of the picture: Regional Prompts, and the host's masks to compare with."""

from __future__ import annotations

from . import host  # noqa: F401

# isort: split
from collections.abc import Sequence

import nodes as host_nodes
import torch
from node_defaults import defaults

from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.nodes.region import SemanticGuidanceRegion
from semantic_guidance.nodes.regions import SemanticGuidanceRegions

from .sampling import Conditioning, Method

Box = dict[str, float]  # x, y, width and height in shares of the picture
LEFT: Box = {"x": 0.0, "y": 0.0, "width": 0.5, "height": 1.0}
RIGHT: Box = {"x": 0.5, "y": 0.0, "width": 0.5, "height": 1.0}
CANVAS = 1000


def encode(clip, text: str) -> Conditioning:
    return SemanticGuidancePrompt.execute(clip, text).result[0]


def with_regions(placed: Sequence[tuple[str, Box]], region: dict | None = None, **settings) -> Method:
    """Regional Prompts with these texts in these boxes. region, settings: of the nodes Region and Regional Prompts."""

    def patched(model, clip, prompt):
        chain = ()
        for text, box in placed:
            where = {side: value * CANVAS for side, value in box.items()}
            options = {**defaults(SemanticGuidanceRegion), "where": where, **(region or {})}
            chain = SemanticGuidanceRegion.execute(encode(clip, text), previous=chain, **options).result[0]
        options = {**defaults(SemanticGuidanceRegions), "width": CANVAS, "height": CANVAS, **settings}
        return SemanticGuidanceRegions.execute(model, encode(clip, prompt), chain, **options).result[:2]

    return patched


def with_masks(placed: Sequence[tuple[str, Box]], side: int = 32) -> Method:
    """The host's ConditioningSetMask for each text, on a latent of this size, beside the whole picture's prompt."""

    def patched(model, clip, prompt):
        positive = encode(clip, prompt)
        for text, box in placed:
            mask = torch.zeros(1, side, side)
            left, top = round(box["x"] * side), round(box["y"] * side)
            mask[:, top : top + round(box["height"] * side), left : left + round(box["width"] * side)] = 1
            positive = positive + host_nodes.ConditioningSetMask().append(encode(clip, text), mask, "default", 1.0)[0]
        return model, positive

    return patched
