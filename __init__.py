"""Semantic Guidance: guidance that knows the words of the prompt, for ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES

WEB_DIRECTORY = "./web"


class SemanticGuidance(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SemanticGuidance:
    return SemanticGuidance()
