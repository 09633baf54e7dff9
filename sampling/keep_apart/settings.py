"""What a user sets of Keep Apart."""

from __future__ import annotations

from typing import NamedTuple

NODE = "Keep Apart"


class Settings(NamedTuple):
    words: tuple[str, ...]
    strength: float = 1.0  # how much of the others' words is taken away where one subject is
    emphasis: float = 4.0  # weight of all these words
    threshold: float = 1.0  # standard deviations above its mean, from which a place belongs to a subject
    memory: float = 0.7  # of maps, from one step to the next
    downsample: int | None = None  # of the grid read
    start_percent: float = 0.0
    end_percent: float = 1.0

    @property
    def acts(self) -> bool:
        return self.strength > 0 or self.emphasis != 1
