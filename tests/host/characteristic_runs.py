"""Sampling with and without Characteristic Guidance on tiny models, through the node that a user has."""

from __future__ import annotations

from host.sega_runs import defaults

from semantic_guidance.nodes.characteristic import SemanticGuidanceCharacteristic

DEFAULTS = defaults(SemanticGuidanceCharacteristic)


def characteristic(model, **settings):
    return SemanticGuidanceCharacteristic.execute(model, **{**DEFAULTS, **settings}).result[0]
