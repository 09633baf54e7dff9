"""Tooltips, help pages and node names, in English and in a language of locales/."""

from __future__ import annotations

import json
import re

import pytest
from paths import ROOT

LANGUAGE = "zh"
DOCS = ROOT / "web" / "docs"
NODES = sorted(path.stem for path in DOCS.glob("*.md"))
ON_THE_NODE = ("STRING", "INT", "FLOAT", "COMBO", "BOOLEAN")


@pytest.fixture(scope="module")
def described(comfy) -> dict[str, dict]:
    return {node: comfy.object_info(node)[node] for node in NODES}


def parts(info: dict) -> dict[tuple[str, str], str]:
    """The tooltips of a node's first socket, last widget on the canvas, and last output: (part, name) -> text."""
    inputs = {**info["input"]["required"], **info["input"].get("optional", {})}
    sockets = {name: options for name, (kind, options) in inputs.items() if kind not in ON_THE_NODE}
    widgets = {
        name: options for name, (kind, options) in inputs.items()
        if kind in ON_THE_NODE and not options.get("multiline")
    }  # fmt: skip
    found = {("input", name): options["tooltip"] for name, options in list(sockets.items())[:1]}
    found |= {("widget", name): options["tooltip"] for name, options in list(widgets.items())[-1:]}
    return found | {("output", info["output_name"][-1]): info["output_tooltips"][-1]}


@pytest.mark.parametrize("node", NODES)
def test_tooltips_say_what_the_parts_of_a_node_are(user, described, node):
    user.place(node)
    for (part, name), text in parts(described[node]).items():
        assert user.tooltip(node, part, name) == text, name


@pytest.mark.parametrize("node", NODES)
def test_the_help_panel_shows_the_page_of_the_node(user, node):
    user.place(node)
    shown = user.help(node)
    page = (DOCS / f"{node}.md").read_text(encoding="utf-8")
    for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE):
        assert heading in shown
    assert user.console == []


def test_another_language(user, described):
    """Names, tooltips and help, of one node with sockets and widgets."""
    node = "SemanticGuidanceWordMask"
    translated = json.loads((ROOT / "locales" / LANGUAGE / "nodeDefs.json").read_text(encoding="utf-8"))[node]
    user.speak(LANGUAGE)
    user.place(node)
    assert user.nodes()[0]["title"] == translated["display_name"] != described[node]["display_name"]
    for part, name in (("input", "latent"), ("widget", "noise_level")):
        assert user.tooltip(node, part, name) == translated["inputs"][name]["tooltip"]
    assert user.tooltip(node, "output", "masks") == translated["outputs"]["0"]["tooltip"]
    page = (DOCS / node / f"{LANGUAGE}.md").read_text(encoding="utf-8")
    shown = user.help(node)
    for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE):
        assert heading in shown
    user.photograph(f"help-{LANGUAGE}")
    assert user.console == []
