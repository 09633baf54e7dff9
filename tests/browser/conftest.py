"""One server, one browser and one page for all tests. They end as they began: no dialog, an empty graph, in English."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chromium import MISSING, chromium
from comfy_server import comfy_server
from workflow_pages import PAGES


@pytest.fixture(scope="session")
def comfy(tmp_path_factory):
    """A client of the server, which believes that it has the models that the workflows name."""
    if not chromium():
        pytest.skip(MISSING)
    base = tmp_path_factory.mktemp("base")
    for model in (model for page in PAGES.values() for model in page.models):
        path = base / "models" / model["directory"] / model["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with comfy_server(base) as client:
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
