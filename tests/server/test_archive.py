"""The registry's archive, unpacked into a folder of any name, is the whole pack."""

from __future__ import annotations

import json
import shutil
from urllib.parse import quote

import pytest
import translated
import translations
from comfy_server import comfy_server
from paths import ROOT
from shipped import shipped

FOLDER = "renamed_by_someone"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A client of a server that has only the archive."""
    folder = tmp_path_factory.mktemp("archive")
    for path in shipped():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    with comfy_server(custom_nodes={FOLDER: folder}) as client:
        yield client


def test_all_nodes_are_there(unpacked):
    names = json.loads((ROOT / "tests" / "server" / "public_names.json").read_text(encoding="utf-8"))
    found = unpacked.object_info()
    assert {name for name in found if name.startswith("SemanticGuidance")} == set(names)
    assert all(found[name]["python_module"] == f"custom_nodes.{FOLDER}" for name in names)


def test_help_pages_and_their_pictures_are_there(unpacked):
    files = [path.relative_to("web") for path in shipped() if path.parts[0] == "web"]
    assert files
    for path in files:
        page = unpacked.get(f"/extensions/{quote(FOLDER)}/{quote(path.as_posix())}")
        assert page == (ROOT / "web" / path).read_bytes(), path


def test_workflows_are_there(unpacked):
    titles = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
    assert sorted(unpacked.get_json("/workflow_templates")[FOLDER]) == titles


def test_subgraphs_are_there(unpacked):
    titles = sorted(path.stem for path in (ROOT / "subgraphs").glob("*.json"))
    found = unpacked.get_json("/global_subgraphs").values()
    assert sorted(entry["name"] for entry in found if FOLDER in entry["info"]["node_pack"]) == titles


def test_translations_are_there(unpacked):
    found = unpacked.get_json("/i18n")
    for language in translated.languages():
        for node, texts in translations.texts(language).items():
            assert found[language]["nodeDefs"][node] == texts
