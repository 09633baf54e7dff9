from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def in_float64():
    """The maths is compared in float64, where rounding decides nothing, unless a test names another precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
