"""The models of the example workflows are those of the templates that come with the host."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import workflow_files
from workflow_pages import PAGES

FOLDERS = {"UNETLoader": "diffusion_models", "CLIPLoader": "text_encoders", "VAELoader": "vae"}
THREE_FILES = [name for name in PAGES if workflow_files.stand_in(workflow_files.load(name))]


@pytest.fixture(scope="module")
def known() -> set[tuple[str, str, str]]:
    """(folder, name, address) of every model that a template offers to download."""
    templates = files("comfyui_workflow_templates_json") / "templates"
    found = set()

    def visit(value) -> None:
        if isinstance(value, dict):
            if {"name", "url", "directory"} <= value.keys():
                found.add((value["directory"], value["name"], value["url"].removesuffix("?download=true")))
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                visit(item)

    for path in templates.iterdir():
        if path.name.endswith(".json"):
            visit(json.loads(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("name", THREE_FILES)
def test_a_workflow_names_and_links_models_as_the_host_does(name, known):
    graph, models = workflow_files.load(name), PAGES[name].models
    loaded = {
        (FOLDERS[node["class_type"]], next(iter(node["inputs"].values())))
        for node in graph.values() if node["class_type"] in FOLDERS
    }  # fmt: skip
    assert loaded == {(model["directory"], model["name"]) for model in models}
    assert {(model["directory"], model["name"], model["url"]) for model in models} <= known
