"""The precision of the papers' maths."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(values: Tensor) -> Tensor:
    """Half precision, integers and booleans as float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
