from __future__ import annotations

import pytest
from comfy_server import comfy_server, stop_on_terminate


@pytest.fixture(scope="session")
def comfy():
    """A client of one server that all tests of the session share."""
    stop_on_terminate()
    with comfy_server() as client:
        yield client
