"""The template browser, and every workflow of the pack as it opens from there."""

from __future__ import annotations

import json

import pytest
import workflow_files
from paths import ROOT
from workflow_pages import PAGES

FILES = {path.stem: path for path in (ROOT / "workflows").glob("*.json")}


@pytest.fixture(scope="module")
def nodes(comfy) -> dict[str, dict]:
    return comfy.object_info()


@pytest.fixture(scope="module")
def display_names(nodes) -> dict[str, str]:
    return {name: info["display_name"] or name for name, info in nodes.items()}


def defaults(info: dict) -> dict:
    """Of a node's optional widgets, which the front end sends even where a workflow does not name them."""
    optional = info["input"].get("optional", {}).items()
    return {name: spec[1]["default"] for name, spec in optional if len(spec) > 1 and "default" in spec[1]}


def test_the_dialog_offers_the_workflows_of_the_pack(user):
    dialog = user.templates()
    for title in FILES:
        dialog.get_by_text(title, exact=True).first.wait_for()
    assert dialog.get_by_text(f"Showing {len(FILES)} of {len(FILES)} templates").is_visible()
    user.photograph("templates")
    assert not user.console


@pytest.mark.parametrize("name", PAGES)
def test_a_workflow_opens_without_complaint_and_sends_what_it_should(user, nodes, display_names, name):
    title = PAGES[name].title
    user.open_template(title)
    user.page.wait_for_timeout(1000)  # complaints come after the nodes
    user.photograph(title)
    shown = user.nodes()
    expected = json.loads(FILES[title].read_text(encoding="utf-8"))["nodes"]
    assert sorted(node["type"] for node in shown) == sorted(node["type"] for node in expected)
    assert not any(node["wrong"] for node in shown)
    graph, _ = workflow_files.numbered(workflow_files.load(name))
    own = {node["class_type"]: node["_meta"]["title"] for node in graph.values() if "_meta" in node}
    for node in shown:
        assert node["title"] == own.get(node["type"], display_names.get(node["type"], "Markdown Note"))
    assert user.sent() == {
        number: defaults(nodes[node["class_type"]]) | node["inputs"] for number, node in graph.items()
    }
    assert user.alerts() == []
    assert user.console == []
