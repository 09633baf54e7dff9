"""What S-CFG saw and did, kept for the previews."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

KEPT_RUNS = 4


class Region(NamedTuple):
    """A region's name: the token column of one prompt, and the word it belongs to ("" for start, end, padding)."""

    prompt: int
    column: int
    text: str


class RegionStep(NamedTuple):
    """One sampler step, on the CPU."""

    step: int  # from 0
    sigma: float
    owner: Tensor  # [B, H, W] int16, index into Regions.regions
    rates: Tensor  # [B, number of regions met so far], before limits
    rate_map: Tensor  # [B, H, W], the rate that was applied


class Regions(NamedTuple):
    """One finished sampling run."""

    regions: tuple[Region, ...]
    steps: tuple[RegionStep, ...]
    scale: float  # CFG scale
    mark: Tensor  # of the latent that the run returned


def latent_mark(samples: Tensor) -> Tensor:
    """A short mark by which a latent can be recognised: its shape and some of its values."""
    values = samples.flatten()
    picked = values[torch.linspace(0, values.numel() - 1, 64, device=values.device).long()]
    shape = torch.tensor(samples.shape, dtype=torch.float32)
    return torch.cat([shape, picked.float().cpu()])


class RegionRecord:
    """The last few finished runs of one S-CFG node, found again by the latent that each returned."""

    def __init__(self) -> None:
        self._runs: deque[Regions] = deque(maxlen=KEPT_RUNS)

    def add(self, run: Regions) -> None:
        self._runs.append(run)

    def of(self, samples: Tensor) -> Regions:
        """The run that made this latent. ValueError, with the way out, where there is none."""
        mark = latent_mark(samples)
        for run in reversed(self._runs):
            if run.mark.shape == mark.shape and torch.allclose(run.mark, mark, atol=1e-2, rtol=1e-2):
                return run
        if not self._runs:
            raise ValueError(
                "no regions were recorded. Connect the MODEL output of the same S-CFG node to a sampler with cfg "
                "other than 1, and that sampler's LATENT to this node."
            )
        raise ValueError(
            "the latent is not one that a sampler with this S-CFG node returned. Connect the LATENT output of that "
            "sampler directly."
        )
