"""How far sampling has come: the inverse of the host's percent_to_sigma."""

from __future__ import annotations

from typing import Any

ITERATIONS = 24


def percent_at(model_sampling: Any, sigma: float) -> float:
    """The share of the noise schedule that is done at this sigma, 0..1."""
    low, high = 0.0, 1.0
    for _ in range(ITERATIONS):
        middle = (low + high) / 2
        if model_sampling.percent_to_sigma(middle) > sigma:
            low = middle
        else:
            high = middle
    return high
