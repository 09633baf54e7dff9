"""Sampling with and without Guidance Schedule and Guidance Meter on tiny models, through the nodes that a user has."""

from __future__ import annotations

from node_defaults import defaults

from semantic_guidance.nodes.meter import SemanticGuidanceMeter
from semantic_guidance.nodes.schedule import SemanticGuidanceSchedule

DEFAULTS = defaults(SemanticGuidanceSchedule)


def scheduled(model, **settings):
    return SemanticGuidanceSchedule.execute(model, **{**DEFAULTS, **settings}).result[0]


def metered(model, words: str = "") -> tuple:
    """The outputs of Guidance Meter: the model and the record."""
    return SemanticGuidanceMeter.execute(model, words, "auto").result
