"""Sampling with and without Keep Apart on tiny models, through the node that a user has."""

from __future__ import annotations

from host.scfg_runs import run
from node_defaults import defaults

from semantic_guidance.nodes.keep_apart import SemanticGuidanceKeepApart

DEFAULTS = defaults(SemanticGuidanceKeepApart)
SUBJECTS = ((5, 6), (20,))
WORDS = dict(words="#5, #20", emphasis=2.0, threshold=0.5)


def kept_apart(model, **settings) -> tuple:
    """The outputs of the node: the model, the record of attention and that of regions."""
    return SemanticGuidanceKeepApart.execute(model, **{**DEFAULTS, **WORDS, **settings}).result


def with_apart(model, **settings):
    return kept_apart(model, **settings)[0]


def traced(model, settings: dict | None = None, sample=run, **kwargs) -> tuple:
    """The sampled latent and the trace of the run."""
    model, record, _ = kept_apart(model, **(settings or {}))
    samples = sample(model, **kwargs)
    return samples, record.of(samples)
