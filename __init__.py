"""Semantic Guidance: guidance that knows the words of the prompt, for ComfyUI."""

from __future__ import annotations

import re

from comfyui_version import __version__

OLDEST = (0, 18, 2)

if tuple(map(int, re.findall(r"\d+", __version__)[:3])) < OLDEST:
    needed = ".".join(map(str, OLDEST))
    raise ImportError(f"Semantic Guidance needs ComfyUI {needed} or newer; this is {__version__}. Update ComfyUI.")

from comfy_api.latest import ComfyAPI, ComfyExtension, io  # noqa: E402

from .nodes import NODES  # noqa: E402
from .nodes.replacements import replacements  # noqa: E402

WEB_DIRECTORY = "./web"


class SemanticGuidance(ComfyExtension):
    async def on_load(self) -> None:
        for replacement in replacements():
            await ComfyAPI().node_replacement.register(replacement)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SemanticGuidance:
    return SemanticGuidance()
