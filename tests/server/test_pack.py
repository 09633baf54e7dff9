"""What the front end and other programs see of the pack."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from paths import ROOT

FOLDER = "semantic-guidance"
PUBLIC_NAMES = Path(__file__).with_name("public_names.json")


@pytest.fixture(scope="module")
def nodes(comfy):
    module = f"custom_nodes.{FOLDER}"
    found = {name: info for name, info in comfy.object_info().items() if info["python_module"] == module}
    assert found, "the pack is not loaded"
    return found


def inputs_of(info: dict) -> dict[str, list]:
    """Name -> [type, options] of what a user connects or sets, in order."""
    kinds = [kind for kind in ("required", "optional") if kind in info["input"]]
    return {key: info["input"][kind][key] for kind in kinds for key in info["input_order"][kind]}


def public(info: dict) -> dict:
    """What saved workflows and API graphs rely on: inputs in order with type, default and choices; outputs in order."""
    inputs = {}
    for key, (kind, options) in inputs_of(info).items():
        kept = {name: options[name] for name in ("default", "options") if name in options}
        inputs[key] = [kind, *([kept] if kept else [])]
    return {
        "required": info["input_order"]["required"],
        "inputs": inputs,
        "outputs": [list(pair) for pair in zip(info["output"], info["output_name"], strict=True)],
    }


def test_every_node_is_named_described_and_found_by_its_method(nodes):
    for name, info in nodes.items():
        assert name.startswith("SemanticGuidance")
        assert info["display_name"] != name and info["category"].startswith("semantic guidance"), name
        assert info["description"] and info["search_aliases"], name


def test_public_names_stay_as_saved_workflows_have_them(nodes):
    """Widgets are saved by position: new inputs and outputs go to the end, and are then added to the file."""
    recorded = json.loads(PUBLIC_NAMES.read_text(encoding="utf-8"))
    current = {name: public(info) for name, info in nodes.items()}
    assert current == recorded
    for name, info in current.items():
        assert list(info["inputs"]) == list(recorded[name]["inputs"]), f"the order of the inputs of {name}"


def test_every_input_and_output_has_a_tooltip(nodes):
    for name, info in nodes.items():
        for key, (_, options) in inputs_of(info).items():
            assert options.get("tooltip"), f"{name}.{key}"
        assert all(info["output_tooltips"]) and len(info["output_tooltips"]) == len(info["output"]), name


def test_every_node_has_a_help_page(comfy, nodes):
    for name, info in nodes.items():
        page = comfy.get(f"/extensions/{FOLDER}/docs/{name}.md").decode()
        assert page.startswith("# "), name
        for key in inputs_of(info):
            assert f"`{key}`" in page, f"the help page of {name} does not mention {key}"


def test_help_pages_show_pictures_that_exist(comfy):
    for page in (ROOT / "web" / "docs").glob("*.md"):
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert comfy.get(f"/extensions/{FOLDER}/docs/{picture}"), f"{page.name}: {picture}"


def test_workflows_are_offered_as_templates_with_thumbnails(comfy):
    offered = comfy.get_json("/workflow_templates")[FOLDER]
    assert sorted(offered) == sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
    for name in map(quote, offered):
        assert json.loads(comfy.get(f"/api/workflow_templates/{FOLDER}/{name}.json"))["nodes"]
        assert comfy.get(f"/api/workflow_templates/{FOLDER}/{name}.jpg")[:2] == b"\xff\xd8"
