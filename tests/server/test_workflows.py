"""The workflows through the server's own API, on Sticker World and on stand-ins for other families."""

from __future__ import annotations

import io
import json
import time

import numpy as np
import pytest
import workflow_files
from comfy_client import ComfyClient, Graph, Interrupted, NodeError
from paths import ROOT
from PIL import Image

STEPS = 4
NEEDS = {"Krea 2": (0, 30)}  # 0.27 does not tell nodes which of its blocks is called


def small(name: str) -> Graph:
    """A workflow on a small model, with few steps."""
    graph = workflow_files.load(name)
    graph = (workflow_files.on_stand_in if workflow_files.stand_in(graph) else workflow_files.on_sticker_world)(graph)
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = STEPS
    return graph


def pictures(comfy: ComfyClient, outputs: dict[str, dict], node: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in comfy.images(outputs, node)]


@pytest.mark.parametrize("name", workflow_files.names())
def test_a_workflow_runs_and_every_picture_shows_something(comfy, name):
    stands_for = workflow_files.stand_in(workflow_files.load(name))
    if stands_for and stands_for not in json.dumps(comfy.object_info("StandInLoader")):
        pytest.skip(f"this ComfyUI has no {stands_for}")
    version = comfy.get_json("/system_stats")["system"]["comfyui_version"]
    if stands_for in NEEDS and tuple(map(int, version.split(".")[:2])) < NEEDS[stands_for]:
        pytest.skip(f"in ComfyUI {version}, attention of {stands_for} cannot be read")
    outputs = comfy.run(small(name))
    saving = [node for node in outputs if "images" in outputs[node]]
    assert saving
    for node in saving:
        if "animated" in outputs[node]:
            assert all(comfy.images(outputs, node))
            continue
        for picture in pictures(comfy, outputs, node):
            assert picture.std() > 1, f"{node} is one flat colour"


def test_s_cfgs_workflow_gives_all_its_pictures(comfy):
    outputs = comfy.run(small("scfg_text_to_image"))
    count = {node: len(pictures(comfy, outputs, node)) for node in outputs if node.startswith("save_")}
    assert count == {"save_plain": 1, "save_guided": 1, "save_regions": 1, "save_rates": 1, "save_words": 2}


def test_without_strength_the_image_is_the_hosts_own(comfy):
    graph = small("scfg_text_to_image")
    graph["scfg"]["inputs"]["strength"] = 0.0
    outputs = comfy.run(graph)
    plain, guided = pictures(comfy, outputs, "save_plain"), pictures(comfy, outputs, "save_guided")
    np.testing.assert_array_equal(plain[0], guided[0])


def test_the_same_graph_again_gives_the_same_pictures(comfy):
    graph = small("scfg_text_to_image")
    first = comfy.run(graph)
    comfy.forget()
    run = comfy.queue(graph)
    second = comfy.wait(run)
    assert "guided" not in comfy.cached_nodes(run)
    for node in first:
        for one, other in zip(pictures(comfy, first, node), pictures(comfy, second, node), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_graph_saved_with_another_packs_s_cfg_runs_with_ours(comfy):
    """That pack is not installed here. Its node has one input, one output and no settings; ours is as in the paper."""
    graph = small("scfg_text_to_image")
    graph["scfg"]["inputs"]["map_scale"] = "auto"
    for name in ("regions", "save_regions", "save_rates", "words", "save_words"):
        del graph[name]
    inputs = {"model": graph["scfg"]["inputs"]["model"]}
    saved = graph | {"scfg": {"class_type": "SemanticAwareGuidance", "inputs": inputs, "_meta": {"title": "S-CFG"}}}
    found = comfy.run(saved)
    plain, guided = pictures(comfy, found, "save_plain"), pictures(comfy, found, "save_guided")
    assert not np.array_equal(plain[0], guided[0])
    comfy.forget()
    np.testing.assert_array_equal(guided[0], pictures(comfy, comfy.run(graph), "save_guided")[0])


def test_an_unknown_word_is_named_with_the_words_there_are(comfy):
    graph = small("scfg_text_to_image")
    graph["words"]["inputs"]["words"] = "cat, giraffe"
    with pytest.raises(NodeError, match="SemanticGuidanceWordMask.*giraffe") as error:
        comfy.run(graph)
    assert "balloon" in str(error.value)


def test_a_setting_out_of_range_is_refused_before_anything_runs(comfy):
    graph = small("scfg_text_to_image")
    graph["scfg"]["inputs"]["strength"] = 5.0
    del graph["save_plain"]  # else the host runs that part
    with pytest.raises(NodeError, match="strength"):
        comfy.queue(graph)


def test_after_an_interrupt_the_next_run_is_right(comfy):
    graph = small("scfg_text_to_image")
    expected = comfy.run(graph)
    endless = small("scfg_text_to_image")
    endless["guided"]["inputs"]["steps"] = 1000
    run = comfy.queue(endless)  # all that comes before this sampler is known by now
    while run not in comfy.running():
        time.sleep(0.05)
    time.sleep(2)
    comfy.interrupt()
    with pytest.raises(Interrupted, match="KSampler.*guided"):
        comfy.wait(run)
    comfy.forget()
    after = comfy.run(graph)
    for one, other in zip(pictures(comfy, expected, "save_guided"), pictures(comfy, after, "save_guided"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_blueprints_are_served_with_nodes_that_there_are(comfy):
    served = {
        entry["name"]: key for key, entry in comfy.get_json("/global_subgraphs").items()
        if entry["info"]["node_pack"] == "custom_nodes.semantic-guidance"
    }  # fmt: skip
    assert sorted(served) == sorted(path.stem for path in (ROOT / "subgraphs").glob("*.json"))
    known = comfy.object_info()
    for title, key in served.items():
        blueprint = json.loads(comfy.get_json(f"/global_subgraphs/{key}")["data"])
        [subgraph], [node] = blueprint["definitions"]["subgraphs"], blueprint["nodes"]
        assert node["type"] == subgraph["id"] and node["title"] == subgraph["name"] == title
        assert [slot["name"] for slot in node["inputs"]] == [slot["name"] for slot in subgraph["inputs"]]
        assert {inner["type"] for inner in subgraph["nodes"]} <= set(known)
        assert subgraph["description"] and subgraph["category"]
