"""What Guidance Meter measured, kept for the preview."""

from __future__ import annotations

from typing import NamedTuple

from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ..record import IF_CACHED, RunRecord

NOTHING_AT_CFG_1 = "cfg is 1: there is nothing to guide"
NOTHING_ALIKE = "both prompts predict the same: there is nothing to guide"


class MeterStep(NamedTuple):
    """One sampler step, on the CPU. Columns: the picture, then each word's region; NaN where there is nothing."""

    step: int  # from 0
    sigma: float
    scale: Tensor  # [B, 1 + words], the effective CFG scale
    ratio: Tensor  # [B, 1 + words], |guided| / |cond|


class Measured(NamedTuple):
    """One finished sampling run."""

    words: tuple[str, ...]
    steps: tuple[MeterStep, ...]
    nothing: str  # why nothing was guided, "" where something was
    cfg_scale: float
    regions: Tensor | None  # [B, words, *size] fp16 in 0..1, of the last step; None without words
    fingerprint: Tensor  # of the latent that the run returned
    notes: tuple[str, ...] = ()  # what other nodes of this pack tell of the run

    def summary(self, image: int | None = None) -> str:
        """One line for an image of the batch, or for the mean of all."""
        if self.nothing:
            return f"{'; '.join((self.nothing, *self.notes))}."
        parts = []
        for column, word in enumerate(("picture", *self.words)):
            scales, ratios = (
                [float((values[:, column] if image is None else values[image, column]).nanmean()) for values in kind]
                for kind in ([step.scale for step in self.steps], [step.ratio for step in self.steps])
            )
            known = [value for value in scales if value == value]
            if not known:
                parts.append(f"{word}: never seen")
                continue
            parts.append(
                f"{word}: effective scale {sum(known) / len(known):.2f} on average, {min(known):.2f} to "
                f"{max(known):.2f}, norm ratio {ratios[-1]:.2f} at the end"
            )
        return f"cfg {self.cfg_scale:g}; {'; '.join((*parts, *self.notes))}."


class MeterRecord(RunRecord):
    """What one Guidance Meter measured of its runs."""

    def of(self, samples: Tensor | NestedTensor) -> Measured:
        """The run that made this latent. ValueError, with the way out, where there is none."""
        measured = self.find(samples)
        if measured is not None:
            return measured
        raise ValueError(
            "the latent is not one that a sampler with this Guidance Meter returned. Connect the meter's MODEL to a "
            f"sampler, and that sampler's LATENT to this node. {IF_CACHED}"
        )
