"""The graphs in workflows/, in the host's API format, and how they are run on Sticker World."""

from __future__ import annotations

import json

from comfy_client import Graph
from paths import TESTS

STICKER_WORLD_LOADER = "StickerWorldLoader"


def names() -> list[str]:
    return sorted(path.stem for path in (TESTS / "workflows").glob("*.json"))


def load(name: str) -> Graph:
    return json.loads((TESTS / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def nodes_of(graph: Graph, class_type: str) -> list[dict]:
    """The inputs of every node of that class."""
    return [node["inputs"] for node in graph.values() if node["class_type"] == class_type]


def on_sticker_world(graph: Graph) -> Graph:
    """The graph with Sticker World (latents of 32x32, pictures of 128x128) in place of its checkpoint."""
    graph = json.loads(json.dumps(graph))
    for node in graph.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type=STICKER_WORLD_LOADER, inputs={})
    return with_size(graph, 128)


def on_checkpoint(graph: Graph, file_name: str, size: int) -> Graph:
    graph = json.loads(json.dumps(graph))
    for loader in nodes_of(graph, "CheckpointLoaderSimple"):
        loader["ckpt_name"] = file_name
    return with_size(graph, size)


def with_size(graph: Graph, size: int) -> Graph:
    for latent in nodes_of(graph, "EmptyLatentImage"):
        latent.update(width=size, height=size)
    return graph
