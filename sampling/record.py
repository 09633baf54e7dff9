"""What stays after a run: its record, found again by the latent that the run returned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from comfy.nested_tensor import NestedTensor
from comfy.utils import pack_latents
from torch import Tensor

KEPT_BYTES = 256 * 2**20  # of records, for each node; the newest run stays whatever its size
VALUES = 2**16  # of a latent, by which it is recognised: all of a 128x128 one, which decodes to 1024x1024
TOLERANCE = 1e-3  # mean difference of what counts as one latent, relative to its magnitude: room for fp16
IF_CACHED = (
    "If that is so, ComfyUI has kept the latent of a run that is forgotten here: change the seed to sample anew."
)


def fingerprint(samples: Tensor | NestedTensor) -> Tensor:
    """What a latent can be recognised by: its shape and evenly spaced values, on the CPU.

    Of several parts, such as video and sound, those of the one that the host packs them into to sample them.
    """
    if isinstance(samples, NestedTensor):
        samples, _ = pack_latents(samples.unbind())
    values = samples.flatten()
    count = min(VALUES, values.numel())
    picked = values[torch.arange(count, device=values.device) * (values.numel() - 1) // max(count - 1, 1)]
    shape = torch.tensor(samples.shape, dtype=torch.float32)
    return torch.cat([shape, picked.float().cpu()])


class RunRecord:
    """The last finished runs of one node, found again by the latent that each returned."""

    def __init__(self) -> None:
        self._runs: list[Any] = []

    def add(self, run: Any) -> None:
        """Keep a run whose `fingerprint` is that of the latent that it returned; the oldest make room for it."""
        self._runs.append(run)
        while len(self._runs) > 1 and sum(map(_bytes, self._runs)) > KEPT_BYTES:
            del self._runs[0]

    def find(self, samples: Tensor | NestedTensor) -> Any:
        """The run that made this latent, the nearest and among equals the newest; None where there is none."""
        wanted = fingerprint(samples)
        near = wanted.abs().mean() * TOLERANCE
        found = None
        for run in reversed(self._runs):
            if run.fingerprint.shape == wanted.shape:
                distance = (run.fingerprint - wanted).abs().mean()
                if distance < near or (found is None and distance == near):
                    found, near = run, distance
        return found


def _bytes(value: Any) -> int:
    """The memory of all tensors in nested tuples."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_bytes, value)) if isinstance(value, Iterable) and not isinstance(value, str) else 0
