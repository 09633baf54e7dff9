from __future__ import annotations

import pytest
from paths import use_host

use_host()

from host import tiny  # noqa: E402  needs the host


@pytest.fixture(scope="session")
def sd15():
    """A model that tests share: they clone it, as nodes do."""
    return tiny.sd15()


@pytest.fixture(scope="session")
def sdxl():
    return tiny.sdxl()
