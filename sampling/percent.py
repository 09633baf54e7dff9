"""How far sampling has come: the inverse of the host's percent_to_sigma."""

from __future__ import annotations

import copy
from typing import Any, Protocol

ITERATIONS = 24


class Curve(Protocol):
    """The host's CURVE: something that changes with the progress, x from 0 to 1."""

    def interp(self, x: float) -> float: ...


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


class Progress:
    """percent_at during a run: without waiting for a GPU, and once for each sigma."""

    def __init__(self, model_sampling: Any):
        self._model_sampling = copy.copy(model_sampling)
        self._model_sampling._buffers = {name: buffer.cpu() for name, buffer in model_sampling._buffers.items()}
        self._known: dict[float, float] = {}

    def at(self, sigma: float) -> float:
        if sigma not in self._known:
            self._known[sigma] = percent_at(self._model_sampling, sigma)
        return self._known[sigma]
