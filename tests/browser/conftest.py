"""One server, one browser and one page for all tests. They end as they began: no dialog, an empty graph, in English."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import workflow_files
from comfy_server import comfy_server, stop_on_terminate


@pytest.fixture(scope="session")
def comfy(tmp_path_factory):
    """A client of the server, which believes that it has the checkpoints that the workflows name."""
    pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
    from front_end import chromium

    if not chromium():
        pytest.skip("no Chromium is installed; CHROMIUM_PATH may name one")
    stop_on_terminate()
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    for name in workflow_files.names():
        for loader in workflow_files.nodes_of(workflow_files.load(name), "CheckpointLoaderSimple"):
            (checkpoints / loader["ckpt_name"]).touch()
    with comfy_server(checkpoints=checkpoints) as client:
        yield client


@pytest.fixture(scope="session")
def shared_user(comfy, tmp_path_factory):
    from browser.user import User
    from front_end import front_end

    pictures = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    with front_end(comfy.address) as page:
        yield User(page, comfy, pictures)


@pytest.fixture
def user(shared_user):
    """Who sits before the front end."""
    shared_user.start_afresh()
    yield shared_user
