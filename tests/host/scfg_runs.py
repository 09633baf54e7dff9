"""Sampling with and without S-CFG on tiny models, through the nodes that a user has."""

from __future__ import annotations

import torch
from host import tiny
from node_defaults import defaults
from torch import Tensor

from semantic_guidance.nodes.scfg import SemanticGuidanceSCFG

DEFAULTS = defaults(SemanticGuidanceSCFG)
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
    return tiny.sample(model, positive, negative, **{"samples": tiny.latent(batch, *size), "steps": 2, **kwargs})


def relative(result: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    return ((result - expected).abs().max() / expected.abs().max()).item()


def probed(model, look):
    """A clone whose every evaluation ends with look(args), args being those of the host's post-CFG functions."""
    model = model.clone()

    def post_cfg(args):
        look(args)
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(post_cfg)
    return model


def expected_rates(prediction: dict, step) -> Tensor:
    """The rates that S-CFG should have found for the regions of a recorded step, [B, regions], by plain loops.

    prediction: args of a post-CFG function. The reference is the whole image.
    """
    norm = (prediction["cond_denoised"] - prediction["uncond_denoised"]).norm(dim=1)
    rates = torch.zeros(step.rates.shape)
    for image, owner in enumerate(step.owner):
        for region in owner.unique().tolist():
            rates[image, region] = norm[image].mean() / norm[image][owner == region].mean()
    return rates
