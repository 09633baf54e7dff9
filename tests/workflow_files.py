"""The graphs in workflows/, in the host's API format, and how they are run on the small models of the tests."""

from __future__ import annotations

import json

from comfy_client import Graph
from paths import TESTS

STAND_INS = {
    "anima-base-v1.0.safetensors": "Anima",
    "z_image_bf16.safetensors": "Z-Image",
    "qwen_image_fp8_e4m3fn.safetensors": "Qwen-Image",
    "flux-2-klein-base-4b.safetensors": "Flux.2 Klein",
    "krea2_turbo_fp8_scaled.safetensors": "Krea 2",
    "wan2.1_t2v_1.3B_fp16.safetensors": "Wan 2.1",
}  # see tests/stand_ins
LOADERS = {"UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}  # the stand-in's output in their place
STICKER_WORLD_LOADER = "StickerWorldLoader"
STICKER_WORLD_CFG = 5.0
SMALL = {"width": 128, "height": 128, "length": 9}


def names() -> list[str]:
    return sorted(path.stem for path in (TESTS / "workflows").glob("*.json"))


def load(name: str) -> Graph:
    return json.loads((TESTS / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def nodes_of(graph: Graph, class_type: str) -> list[dict]:
    """The inputs of every node of that class."""
    return [node["inputs"] for node in graph.values() if node["class_type"] == class_type]


def on_sticker_world(graph: Graph, model: str = "unet") -> Graph:
    """The graph with Sticker World in place of its checkpoint, and what suits its size.

    Pictures have 128x128 pixels, latents 32x32 positions; its UNet attends at a half and a quarter of that.
    """
    graph = json.loads(json.dumps(graph))
    for node in graph.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type=STICKER_WORLD_LOADER, inputs={"model": model})
        if "map_scale" in node["inputs"] and model == "unet":
            node["inputs"]["map_scale"] = "1/2"
        if node["class_type"] == "KSampler" and model != "unet":
            node["inputs"].update(sampler_name="euler", scheduler="simple")
        if "cfg" in node["inputs"]:
            node["inputs"]["cfg"] = STICKER_WORLD_CFG
    return with_size(graph, 128)


def stand_in(graph: Graph) -> str | None:
    """The name of the stand-in for the model file that the graph loads; None where it is a checkpoint."""
    return next((STAND_INS[loader["unet_name"]] for loader in nodes_of(graph, "UNETLoader")), None)


def on_stand_in(graph: Graph) -> Graph:
    """The graph with a stand-in in place of its loaders, pictures of 128x128 pixels and videos of 9 frames."""
    graph = json.loads(json.dumps(graph))
    loader = {"class_type": "StandInLoader", "inputs": {"name": stand_in(graph)}}
    replaced = {name: LOADERS[node["class_type"]] for name, node in graph.items() if node["class_type"] in LOADERS}
    for node in graph.values():
        for key, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in replaced:
                node["inputs"][key] = ["loader", replaced[value[0]]]
            if key in SMALL and isinstance(value, int):
                node["inputs"][key] = SMALL[key]
    return {"loader": loader} | {name: node for name, node in graph.items() if name not in replaced}


def on_checkpoint(graph: Graph, file_name: str, size: int) -> Graph:
    graph = json.loads(json.dumps(graph))
    for loader in nodes_of(graph, "CheckpointLoaderSimple"):
        loader["ckpt_name"] = file_name
    return with_size(graph, size)


def with_size(graph: Graph, size: int) -> Graph:
    for latent in nodes_of(graph, "EmptyLatentImage"):
        latent.update(width=size, height=size)
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
