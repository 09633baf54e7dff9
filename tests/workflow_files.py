"""The graphs in workflows/, in the host's API format, and how they are run on the small models of the tests."""

from __future__ import annotations

import json

from comfy_client import Graph
from paths import TESTS

STAND_INS = {
    "anima-base-v1.0.safetensors": "Anima",
    "z_image_bf16.safetensors": "Z-Image",
    "z_image_turbo_bf16.safetensors": "Z-Image",
    "qwen_image_fp8_e4m3fn.safetensors": "Qwen-Image",
    "flux-2-klein-base-4b.safetensors": "Flux.2 Klein",
    "krea2_turbo_fp8_scaled.safetensors": "Krea 2",
    "wan2.1_t2v_1.3B_fp16.safetensors": "Wan 2.1",
}  # see tests/stand_ins
LOADERS = {"UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}  # the output of one loader in their place
SHIFT = {"ModelSamplingAuraFlow": 0}  # another model has its own
STICKER_WORLD_LOADER = "StickerWorldLoader"
STICKER_WORLD_CFG = 5 / 7.5  # of that in the graphs, which are for Stable Diffusion
PIXELS = ("x", "y", "width", "height")
SMALL = {"width": 128, "height": 128, "length": 9}


def names() -> list[str]:
    return sorted(path.stem for path in (TESTS / "workflows").glob("*.json"))


def load(name: str) -> Graph:
    return json.loads((TESTS / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def nodes_of(graph: Graph, class_type: str) -> list[dict]:
    """The inputs of every node of that class."""
    return [node["inputs"] for node in graph.values() if node["class_type"] == class_type]


def on_sticker_world(graph: Graph, model: str = "unet") -> Graph:
    """The graph with Sticker World in place of its model, and what suits its size.

    Pictures have 128x128 pixels, latents 32x32 positions; its UNet attends at a half and a quarter of that. cfg falls
    in proportion; 1 stays 1.
    """
    sticker_world = {"class_type": STICKER_WORLD_LOADER, "inputs": {"model": model}}
    graph = with_one_loader(json.loads(json.dumps(graph)), sticker_world, LOADERS | SHIFT)
    for node in graph.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(sticker_world)
        if "map_scale" in node["inputs"] and model == "unet":
            node["inputs"]["map_scale"] = "1/2"
        if node["class_type"] == "KSampler" and model != "unet":
            node["inputs"].update(sampler_name="euler", scheduler="simple")
        if node["inputs"].get("cfg", 1) != 1:
            node["inputs"]["cfg"] *= STICKER_WORLD_CFG
    return with_size(graph, 128)


def stand_in(graph: Graph) -> str | None:
    """The name of the stand-in for the model file that the graph loads; None where it is a checkpoint."""
    return next((STAND_INS[loader["unet_name"]] for loader in nodes_of(graph, "UNETLoader")), None)


def on_stand_in(graph: Graph) -> Graph:
    """The graph with a stand-in in place of its loaders, pictures of 128x128 pixels and videos of 9 frames."""
    loader = {"class_type": "StandInLoader", "inputs": {"name": stand_in(graph)}}
    graph = with_one_loader(json.loads(json.dumps(graph)), loader, LOADERS)
    for node in graph.values():
        node["inputs"].update({key: SMALL[key] for key, value in node["inputs"].items()
                               if key in SMALL and isinstance(value, int)})
    return graph


def with_one_loader(graph: Graph, loader: dict, outputs: dict[str, int]) -> Graph:
    """The graph, changed in place, with this loader's outputs in place of the nodes of these classes."""
    replaced = {name: outputs[node["class_type"]] for name, node in graph.items() if node["class_type"] in outputs}
    if not replaced:
        return graph
    for node in graph.values():
        for key, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in replaced:
                node["inputs"][key] = ["loader", replaced[value[0]]]
    return {"loader": loader} | {name: node for name, node in graph.items() if name not in replaced}


def on_checkpoint(graph: Graph, file_name: str, size: int) -> Graph:
    graph = json.loads(json.dumps(graph))
    for loader in nodes_of(graph, "CheckpointLoaderSimple"):
        loader["ckpt_name"] = file_name
    return with_size(graph, size)


def with_size(graph: Graph, size: int) -> Graph:
    """The graph, changed in place, with pictures of this size and the boxes on them in proportion."""
    latents = nodes_of(graph, "EmptyLatentImage") + nodes_of(graph, "EmptySD3LatentImage")
    share = size / latents[0]["width"]
    for drawn in latents + nodes_of(graph, "PrimitiveBoundingBox") + nodes_of(graph, "SemanticGuidanceRegions"):
        drawn.update({key: round(share * drawn[key]) for key in PIXELS if key in drawn})
    return graph


def numbered(graph: Graph) -> tuple[Graph, dict[str, int]]:
    """The graph with the numbers that the front end gives to nodes, and the number of each name."""
    numbers = {name: index for index, name in enumerate(graph, start=1)}

    def value(v):
        return [str(numbers[v[0]]), v[1]] if isinstance(v, list) else v

    return {
        str(numbers[name]): {**node, "inputs": {key: value(v) for key, v in node["inputs"].items()}}
        for name, node in graph.items()
    }, numbers
