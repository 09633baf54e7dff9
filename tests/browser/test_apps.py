"""The workflows that open as apps, with both ways in which the front end draws nodes."""

from __future__ import annotations

import json

import pytest
import workflow_files
from workflow_pages import PAGES

APPS = [name for name in PAGES if PAGES[name].app]
RENDERER = "Comfy.VueNodes.Enabled"
NEW_PROMPT = "a cat and a balloon on a hill"


@pytest.fixture(params=[False, True], ids=["canvas", "nodes2"], scope="module")
def renderer(comfy, shared_user, request):
    before = shared_user.page.evaluate(f"app.extensionManager.setting.get('{RENDERER}')")

    def draw(new: bool) -> None:
        comfy.post(f"/settings/{RENDERER}", json.dumps(new).encode())
        shared_user.reload()

    draw(request.param)
    yield "nodes2" if request.param else "canvas"
    draw(before)


@pytest.mark.parametrize("name", APPS)
def test_a_workflow_opens_as_an_app_whose_inputs_reach_the_graph(user, renderer, name):
    page, app = PAGES[name], PAGES[name].app
    _, numbers = workflow_files.numbered(workflow_files.load(name))
    user.open_template(page.title)
    panel = user.page.get_by_test_id("linear-widgets")
    panel.wait_for()
    for _, widget, label in app.inputs:
        assert panel.get_by_text(label or widget, exact=True).is_visible(), widget
    panel.get_by_role("textbox").first.fill(NEW_PROMPT)
    user.page.keyboard.press("Tab")
    user.photograph(f"app-{renderer}-{name}")
    assert user.sent()[str(numbers["positive"])]["text"] == NEW_PROMPT
    assert user.alerts() == [] and user.console == []
    user.page.evaluate("app.extensionManager.command.execute('Comfy.ToggleLinear')")
    user.look_at_all()
    user.photograph(f"graph-{renderer}-{name}")
    assert not any(node["wrong"] for node in user.nodes())


def test_an_app_runs_and_shows_its_pictures(user, renderer):
    user.open_template(PAGES["scfg_text_to_image"].title)
    user.on_sticker_world()
    assert user.run() == "execution_success"
    user.page.locator("img[src*='/view?']:visible").first.wait_for()
    user.photograph(f"app-{renderer}-ran")
    assert user.console == []
