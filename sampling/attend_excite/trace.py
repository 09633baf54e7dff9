"""What Attend-and-Excite saw and did, kept for the preview."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..record import IF_CACHED, RunRecord


class TraceStep(NamedTuple):
    """One sampler step that moved the latent. Peaks are NaN where no prompt with the word acts."""

    step: int  # from 0
    before: Tensor  # [B, words], highest attention score of each word, 0..1
    after: Tensor  # [B, words], at the last evaluation, before the step's last move
    refinements: Tensor  # [B] int64
    size: Tensor  # [B], the longest move, relative to the latent's norm
    maps: Tensor  # [B, words, h, w] fp16, the scores at the last evaluation

    def cpu(self) -> TraceStep:
        return TraceStep(self.step, *(values.cpu() for values in self[1:]))


class Trace(NamedTuple):
    """One finished sampling run, on the CPU."""

    words: tuple[str, ...]
    steps: tuple[TraceStep, ...]
    total: int  # sampler steps
    targets: tuple[tuple[int, float], ...]  # (step from 0, attention that refinement aims at)
    fingerprint: Tensor  # of the latent that the run returned

    def summary(self) -> str:
        """One line: the attention to each word, first and last, and what was done for it."""
        if not self.steps:
            return "no effect: sampling started after the steps in which the latent is moved (active_share)."
        first, last = self.steps[0].before, self.steps[-1].after
        words = [f"{word} {low:.2f} -> {high:.2f}" for word, low, high in
                 zip(self.words, _lowest(first), _lowest(last), strict=True)]
        lowest = " (the lowest of the images)" if len(first) > 1 else ""
        attention = f"attention to {', '.join(words)}{lowest}"
        longest = max(float(step.size.max()) for step in self.steps)
        if longest == 0:
            return f"no effect: every word was fully attended to already; {attention}."
        refinements = sum(int(step.refinements.sum()) for step in self.steps)
        return (
            f"{attention}; {len(self.steps)} of {self.total} steps, {refinements} refinements, longest move "
            f"{100 * longest:.1f} % of the latent's norm."
        )


def _lowest(peaks: Tensor) -> list[float]:
    """[B, words] -> the lowest of the images; NaN where there is none."""
    lowest = peaks.nan_to_num(torch.inf).amin(0)
    return lowest.masked_fill(lowest.isinf(), torch.nan).tolist()


class AttentionRecord(RunRecord):
    """The Traces of one Attend-and-Excite node's runs."""

    def of(self, samples: Tensor) -> Trace:
        """The run that made this latent. ValueError, with the way out, where there is none."""
        trace = self.find(samples)
        if trace is not None:
            return trace
        raise ValueError(
            "the latent is not one that a sampler with this Attend-and-Excite node returned. Connect the node's MODEL "
            "to a sampler, that sampler's LATENT to this node, and keep scale_factor and active_share above 0. "
            f"{IF_CACHED}"
        )
