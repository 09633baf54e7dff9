"""How strongly words were attended to in a run, kept for Attention Curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .record import IF_CACHED, RunRecord


class WordCurves(NamedTuple):
    """What is drawn of one finished run."""

    words: tuple[str, ...]
    steps: tuple[int, ...]  # of the sampler, from 0
    peaks: Tensor  # [steps, B, words], the highest attention to each word, 0..1; NaN where none was read
    maps: Tensor  # [B, words, h, w], at the last of these steps
    scale: tuple[float, float]  # of the maps
    targets: tuple[tuple[int, float], ...] = ()  # (step from 0, attention that was aimed at)
    notes: tuple[str, ...] = ()  # of each image, for the title
    strengths: tuple[float, ...] = ()  # of the words at these steps, where a node gives them one


def named(steps: Sequence[int]) -> str:
    """step 3, or steps 3-5, for the numbers of steps in order, from 0."""
    first, last = steps[0] + 1, steps[-1] + 1
    return f"step {first}" if first == last else f"steps {first}-{last}"


class AttentionRecord(RunRecord):
    """The runs of one node that reads attention to words. Each says what it saw: `summary()`, `curves()`.

    needs: what a user must keep, so that the node acts.
    """

    def __init__(self, node: str, needs: str):
        super().__init__()
        self._node = node
        self._needs = needs

    def of(self, samples: Tensor) -> Any:
        """The run that made this latent. ValueError, with the way out, where there is none."""
        trace = self.find(samples)
        if trace is not None:
            return trace
        raise ValueError(
            f"the latent is not one that a sampler with this {self._node} node returned. Connect the node's MODEL to a "
            f"sampler, that sampler's LATENT to this node, and keep {self._needs}. {IF_CACHED}"
        )
