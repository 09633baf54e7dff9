"""Sampling with and without S-CFG on tiny models, through the nodes that a user has."""

from __future__ import annotations

from host import tiny
from torch import Tensor

from semantic_guidance.nodes.scfg import SemanticGuidanceSCFG

DEFAULTS = {
    item.id: item.default for item in SemanticGuidanceSCFG.define_schema().inputs if hasattr(item, "default")
}
SIZE = (16, 24)  # of latents; not square, and small enough to sample in half a second


def with_regions(model, **settings) -> tuple:
    """The outputs of the S-CFG node: the model and the record of regions."""
    return SemanticGuidanceSCFG.execute(model, **{**DEFAULTS, **settings}).result


def with_scfg(model, **settings):
    return with_regions(model, **settings)[0]


def run(model, positive=None, negative=None, batch: int = 1, size: tuple[int, int] = SIZE, **kwargs) -> Tensor:
    """A few steps as KSampler does them."""
    positive = tiny.prompt(0) if positive is None else positive
    negative = tiny.prompt(1) if negative is None else negative
    kwargs.setdefault("samples", tiny.latent(batch, *size))
    return tiny.sample(model, positive, negative, **kwargs)


def relative(result: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    return ((result - expected).abs().max() / expected.abs().max()).item()
