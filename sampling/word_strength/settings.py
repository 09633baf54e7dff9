"""What a user asks of some words."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..percent import Curve

NODE = "Word Strength"


class Settings(NamedTuple):
    words: tuple[str, ...]
    strength: float
    start_percent: float = 0.0
    end_percent: float = 1.0
    mask: Tensor | None = None
    curve: Curve | None = None

    @property
    def constant(self) -> bool:
        """Whether the words have their strength everywhere and at all times."""
        return self.mask is None and self.curve is None and self.start_percent <= 0 and self.end_percent >= 1

    def at(self, progress: float) -> float:
        """The strength inside the range; a curve above 1 takes away no more than all of a word."""
        share = 1.0 if self.curve is None else self.curve.interp(progress)
        strength = 1 + (self.strength - 1) * share
        return strength if self.strength < 0 else max(strength, 0.0)
