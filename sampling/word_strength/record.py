"""What Word Strength did, kept for Attention Curves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..attention_record import WordCurves, named

IN_TEXT = "text"  # the path of a strength below 1


class StrengthStep(NamedTuple):
    """One sampler step."""

    step: int  # from 0
    strength: float  # 1 where nothing is changed
    peaks: Tensor | None  # [B, words], the highest attention to each word, 0..1, without its strength; None: not read
    maps: Tensor | None  # [B, words, h, w] fp16, of the last step in which they were read; of a clip the highest

    def cpu(self) -> StrengthStep:
        peaks, maps = (None if values is None else values.cpu() for values in (self.peaks, self.maps))
        return self._replace(peaks=peaks, maps=maps)


class StrengthTrace(NamedTuple):
    """One finished sampling run, on the CPU."""

    words: tuple[str, ...]
    steps: tuple[StrengthStep, ...]
    total: int  # sampler steps
    paths: tuple[str, ...]  # "text", "repeated keys", "two calls" ...
    acted: int  # layers whose attention was changed
    layers: int  # of the model, as far as they are known
    fingerprint: Tensor  # of the latent that the run returned

    @property
    def peaks(self) -> Tensor:
        """[steps, B, words]; NaN where attention was not read."""
        known = next((step.peaks for step in self.steps if step.peaks is not None), torch.zeros(1, len(self.words)))
        unread = torch.full_like(known, torch.nan)
        return torch.stack([unread if step.peaks is None else step.peaks for step in self.steps])

    def curves(self) -> WordCurves:
        peaks = self.peaks
        maps = next((step.maps for step in reversed(self.steps) if step.maps is not None), None)
        if maps is None:
            maps = torch.zeros(*peaks.shape[1:], 16, 16)
        steps, strengths = zip(*((step.step, step.strength) for step in self.steps), strict=True)
        scale = (0.0, max(float(maps.max()), 1e-6))
        notes = (self.summary().rstrip("."),) * len(maps)
        return WordCurves(self.words, steps, peaks, maps, scale, notes=notes, strengths=strengths)

    def summary(self) -> str:
        """One line: which words, how strong, where and when."""
        words = ", ".join(self.words)
        changed = [step for step in self.steps if step.strength != 1]
        if not changed:
            return f"no effect: {words} kept strength 1 in all {self.total} steps (start_percent, end_percent, curve)."
        strengths = sorted({f"{step.strength:g}" for step in changed}, key=float)
        told = strengths[0] if len(strengths) == 1 else f"{strengths[0]} to {strengths[-1]}"
        steps = named([step.step for step in changed])
        where = f" in {self.acted} of {self.layers} layers" if self.acted else ""
        how = f" ({', '.join(self.paths)})" if self.paths else ""
        return f"{words} at {told}{where}{how}, {steps} of {self.total}."
