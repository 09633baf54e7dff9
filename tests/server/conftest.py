from __future__ import annotations

import pytest
from comfy_server import comfy_server


@pytest.fixture(scope="session")
def comfy():
    """A client of one server that all tests of the session share."""
    with comfy_server() as client:
        yield client
