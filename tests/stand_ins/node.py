"""The node that stands for the loaders of a model, its text encoder and its autoencoder."""
from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from host import tiny_dit

from .text import ENCODERS, text_encoder
from .vae import StandInVAE

MODELS = {
    "Anima": "anima", "Z-Image": "zimage", "Qwen-Image": "qwen", "Flux.2 Klein": "flux2", "Krea 2": "krea2",
    "Wan 2.1": "wan",
}  # fmt: skip


class StandInLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StandInLoader",
            display_name="Load Stand-in",
            category="loaders/stand-ins",
            description="Loads a tiny model with random weights in place of a real one of its class.",
            inputs=[io.Combo.Input("name", options=[name for name in MODELS if name in ENCODERS])],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        patcher = tiny_dit.model(MODELS[name])
        return io.NodeOutput(patcher, text_encoder(name), StandInVAE(patcher.get_model_object("latent_format")))


class StandInExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StandInLoader]
