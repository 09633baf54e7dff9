"""The node "Load Sticker World"."""
from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .loader import load_sticker_world


class StickerWorldLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StickerWorldLoader",
            display_name="Load Sticker World",
            category="loaders/sticker world",
            description="Loads the small demonstration model that draws stickers in 128x128 pictures.",
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_sticker_world())


class StickerWorldExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StickerWorldLoader]
