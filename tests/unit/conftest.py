from __future__ import annotations

import importlib.util

import pytest
import torch
from paths import ROOT


@pytest.fixture(autouse=True)
def in_float64():
    """The maths is compared in float64, where rounding decides nothing, unless a test names another precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def dev():
    """A module dev.py of the test's own."""
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
