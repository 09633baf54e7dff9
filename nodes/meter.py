from __future__ import annotations

from comfy_api.latest import io

from ..sampling.meter.run import NODE, patch_meter
from ..words.phrases import split_phrases
from .checks import checked
from .inputs import MAP_SCALE_TOOLTIP, MAP_SCALES
from .sockets import CATEGORY, Meter


class SemanticGuidanceMeter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceMeter",
            display_name=NODE,
            category=CATEGORY,
            description="Measures how strongly the picture is really guided at each step, whatever nodes guide it and "
            "wherever they stand: the CFG scale that they amount to together, in the picture and where the model sees "
            "words. Changes nothing.",
            search_aliases=["effective cfg", "guidance scale", "measure cfg", "compare guidance", "cfg plot",
                            "semantic guidance"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="Any model, before or after the nodes that guide it. To name words, one whose "
                    "attention can be read, as for S-CFG."
                ),
                io.String.Input(
                    "words", default="",
                    tooltip="Words or phrases of the prompt to measure on their own, separated by commas: cat, red "
                    "balloon. Empty for the whole picture only, which needs no look at attention. Encode the prompt "
                    "with Prompt with Words; token numbers such as #2 work with any text encoding node.",
                ),
                io.Combo.Input(
                    "map_scale", options=list(MAP_SCALES), default="auto", advanced=True, tooltip=MAP_SCALE_TOOLTIP
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model, which samples as before and is measured."),
                Meter.Output(
                    display_name="meter",
                    tooltip="What is measured while sampling with this model. Connect to Meter Curves.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model, words: str, map_scale: str) -> io.NodeOutput:
        return io.NodeOutput(*patch_meter(model, tuple(split_phrases(words)), MAP_SCALES[map_scale]))


NODES = [SemanticGuidanceMeter]
