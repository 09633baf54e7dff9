"""The node "Load Sticker World"."""
from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .loader import MODELS, load_sticker_world


class StickerWorldLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StickerWorldLoader",
            display_name="Load Sticker World",
            category="loaders/sticker world",
            description="Loads a small demonstration model that draws stickers in 128x128 pictures.",
            inputs=[
                io.Combo.Input(
                    "model", options=list(MODELS), default=MODELS[0], optional=True,
                    tooltip="unet: built as SD 1.5. joint: joint attention of text and picture, built as SD 3. cross: "
                    "self- and cross-attention of a transformer, built as Wan.",
                ),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, model: str = MODELS[0]) -> io.NodeOutput:
        return io.NodeOutput(*load_sticker_world(model=model))


class StickerWorldExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StickerWorldLoader]
