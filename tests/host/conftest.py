from __future__ import annotations

import pytest
from paths import use_host

use_host()

from comfy.cli_args import args  # noqa: E402  needs the host

args.use_pytorch_cross_attention = True  # what the host takes on most GPUs, and twice as fast here

from host import tiny  # noqa: E402  needs the choice above


@pytest.fixture(scope="session")
def sd15():
    """A model that tests share: they clone it, as nodes do."""
    return tiny.sd15()


@pytest.fixture(scope="session")
def sdxl():
    return tiny.sdxl()
