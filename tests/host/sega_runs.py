"""Sampling with and without SEGA on tiny models, through the nodes that a user has."""

from __future__ import annotations

from comfy_extras import nodes_model_advanced
from host import scfg_runs, tiny
from node_defaults import defaults
from torch import Tensor

from semantic_guidance.nodes.sega import SemanticGuidanceConcept, SemanticGuidanceSEGA

SIZE = (8, 16)  # of latents


def run(model, *args, **kwargs) -> Tensor:
    return scfg_runs.run(model, *args, **{"size": SIZE, **kwargs})


def concept(prompt: int | list = 2, previous: tuple = (), **settings) -> tuple:
    """SEMANTIC_CONCEPTS with one more concept, which acts from the first step unless told otherwise."""
    conditioning = tiny.prompt(prompt) if isinstance(prompt, int) else prompt
    settings = {**defaults(SemanticGuidanceConcept), "counted_in": "steps", "warmup": 0, **settings}
    return SemanticGuidanceConcept.execute(conditioning, previous=previous, **settings).result[0]


def concepts(*settings: dict) -> tuple:
    """A chain of concepts with prompts of their own."""
    chain = ()
    for number, item in enumerate(settings):
        chain = concept(2 + number, chain, **item)
    return chain


def with_sega(model, chain: tuple | None = None, **settings):
    settings = {**defaults(SemanticGuidanceSEGA), **settings}
    return SemanticGuidanceSEGA.execute(model, concept() if chain is None else chain, **settings).result[0]


def prediction_type(model, kind: str):
    """The tiny model as if it had been trained to predict epsilon, v or a velocity."""
    if kind == "velocity":
        return nodes_model_advanced.ModelSamplingSD3().patch(model, 3.0)[0]
    return nodes_model_advanced.ModelSamplingDiscrete().patch(model, {"epsilon": "eps", "v": "v_prediction"}[kind],
                                                              False)[0]
