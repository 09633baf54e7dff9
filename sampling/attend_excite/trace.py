"""What Attend-and-Excite saw and did in a run."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..attention_record import WordCurves


class TraceStep(NamedTuple):
    """One sampler step that moved the latent. Peaks are NaN where no prompt with the word acts."""

    step: int  # from 0
    before: Tensor  # [B, words], highest attention score of each word, 0..1
    after: Tensor  # [B, words], at the last evaluation, before the step's last move
    refinements: Tensor  # [B] int64
    size: Tensor  # [B], the longest move, relative to the latent's norm
    maps: Tensor  # [B, words, h, w] fp16, the scores at the last evaluation
    losses_before: Tensor  # [B, losses], with their weights
    losses_after: Tensor

    def cpu(self) -> TraceStep:
        return TraceStep(self.step, *(values.cpu() for values in self[1:]))


def merged(first: TraceStep, again: TraceStep) -> TraceStep:
    """A step that was taken again, as one."""
    return again._replace(
        before=first.before, losses_before=first.losses_before, refinements=first.refinements + again.refinements,
        size=torch.maximum(first.size, again.size),
    )


class Trace(NamedTuple):
    """One finished sampling run, on the CPU."""

    words: tuple[str, ...]
    steps: tuple[TraceStep, ...]
    total: int  # sampler steps
    targets: tuple[tuple[int, float], ...]  # (step from 0, attention that refinement aims at)
    fingerprint: Tensor  # of the latent that the run returned
    losses: tuple[str, ...] = ()  # their names, where there are others than the paper's

    def curves(self) -> WordCurves:
        """The attention at each step, after its refinements."""
        refinements = torch.stack([step.refinements for step in self.steps]).sum(dim=0).tolist()
        numbers = tuple(step.step for step in self.steps)
        return WordCurves(
            self.words, numbers, torch.stack([step.after for step in self.steps]), self.steps[-1].maps, (0.0, 1.0),
            tuple(target for target in self.targets if target[0] in numbers),
            tuple(f"{count} refinements" for count in refinements),
        )

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
            return f"no effect: every loss was 0 already; {attention}."
        refinements = sum(int(step.refinements.sum()) for step in self.steps)
        before, after = self.steps[0].losses_before, self.steps[-1].losses_after
        losses = "".join(
            f"; {name} {float(before[:, n].mean()):.2f} -> {float(after[:, n].mean()):.2f}"
            for n, name in enumerate(self.losses)
        )
        return (
            f"{attention}{losses}; {len(self.steps)} of {self.total} steps, {refinements} refinements, longest move "
            f"{100 * longest:.1f} % of the latent's norm."
        )


def _lowest(peaks: Tensor) -> list[float]:
    """[B, words] -> the lowest of the images; NaN where there is none."""
    lowest = peaks.nan_to_num(torch.inf).amin(0)
    return lowest.masked_fill(lowest.isinf(), torch.nan).tolist()
