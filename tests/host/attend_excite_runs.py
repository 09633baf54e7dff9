"""Sampling with and without Attend-and-Excite on tiny models, through the node that a user has."""

from __future__ import annotations

import torch
from host import tiny
from node_defaults import defaults
from torch import Tensor

from semantic_guidance.nodes.attend_excite import SemanticGuidanceAttendExcite

DEFAULTS = defaults(SemanticGuidanceAttendExcite)
# Weights drawn at random attend to nothing for a reason, so a few small moves are enough to see that all is right.
GENTLE = dict(words="#2, #5", scale_factor=0.5, max_refinements=2, max_move=1.0, map_scale="1/2")


def with_trace(model, **settings) -> tuple:
    """The outputs of the node: the model and the record of attention."""
    return SemanticGuidanceAttendExcite.execute(model, **{**DEFAULTS, **GENTLE, **settings}).result


def excited(model, **settings):
    return with_trace(model, **settings)[0]


def run(model, positive=None, batch: int = 1, size: tuple[int, int] = (16, 24), **kwargs) -> Tensor:
    positive = tiny.prompt(0) if positive is None else positive
    kwargs.setdefault("samples", tiny.latent(batch, *size))
    return tiny.sample(model, positive, tiny.prompt(1), **{"steps": 4, **kwargs})


def traced(model, settings: dict | None = None, **kwargs) -> tuple:
    """The sampled latent and the trace of the run."""
    model, record = with_trace(model, **(settings or {}))
    samples = run(model, **kwargs)
    return samples, record.of(samples)


def in_inference_mode(model):
    """The same model with weights as the host's loaders make them."""
    with torch.inference_mode():
        for module in model.model.diffusion_model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(weight.clone(), requires_grad=False))
    return model
