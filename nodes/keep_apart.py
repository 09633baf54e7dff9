from __future__ import annotations

from comfy_api.latest import io

from ..sampling.keep_apart.run import patch_keep_apart
from ..sampling.keep_apart.settings import NODE, Settings
from ..words.phrases import split_phrases
from .checks import checked
from .inputs import MAP_SCALES
from .sockets import CATEGORY, AttentionTrace, Regions


class SemanticGuidanceKeepApart(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceKeepApart",
            display_name=NODE,
            category=CATEGORY,
            description="Keeps two or more subjects of a prompt from mixing: where the model sees one of them, the "
            "words of the others are taken away, so that each keeps its own colour and shape. Acts inside attention, "
            "so also at cfg 1, and costs a few percent.",
            search_aliases=["two subjects", "attribute binding", "color bleeding", "concept bleeding", "attribute leak",
                            "regional prompt", "cfg 1", "semantic guidance"],
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to guide. The help says which models work."),
                io.String.Input(
                    "words", default="",
                    tooltip="The subjects, as words or phrases of the prompt, separated by commas: horse, red balloon. "
                    "Two or more; colours belong to their subject. Encode the prompt with Prompt with Words; token "
                    "numbers such as #2 work with any text encoding node.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=1.0, step=0.05, round=0.001,
                    tooltip="How much of the other subjects' words is taken away where one subject is. With 0 nothing "
                    "is.",
                ),
                io.Float.Input(
                    "emphasis", default=4.0, min=1.0, max=10.0, step=1.0, round=0.001,
                    tooltip="The strength of all these words: 4 is as if each stood there four times. 1 leaves them as "
                    "they are.",
                ),
                io.Float.Input(
                    "threshold", default=1.0, min=0.0, max=3.0, step=0.1, round=0.001, advanced=True,
                    tooltip="A place belongs to a subject where attention to it is this many standard deviations above "
                    "its mean. Less gives the subjects more of the picture.",
                ),
                io.Float.Input(
                    "memory", default=0.7, min=0.0, max=0.99, step=0.05, round=0.001, advanced=True,
                    tooltip="How much of what was seen in the steps before still counts. More makes places steadier.",
                ),
                io.Combo.Input(
                    "map_scale", options=list(MAP_SCALES), default="auto", advanced=True,
                    tooltip="The attention grid on which subjects are seen, as a share of the latent's size. 'auto' is "
                    "the one nearest to 16x16. Transformers have one grid alone: leave it at 'auto'.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="From this share of sampling on this node acts.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Until this share of sampling this node acts.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model, which now keeps these subjects apart."),
                AttentionTrace.Output(
                    display_name="attention",
                    tooltip="The attention to each subject while sampling with this model. Connect to Attention "
                    "Curves.",
                ),
                Regions.Output(
                    display_name="regions",
                    tooltip="Whose each place was while sampling with this model. Connect to Region Preview.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model, words: str, strength: float, emphasis: float, threshold: float, memory: float, map_scale: str,
        start_percent: float, end_percent: float,
    ) -> io.NodeOutput:
        phrases = tuple(dict.fromkeys(split_phrases(words)))
        settings = Settings(
            phrases, strength, emphasis, threshold, memory, MAP_SCALES[map_scale], start_percent, end_percent
        )
        model, records = patch_keep_apart(model, settings)
        return io.NodeOutput(model, *records)


NODES = [SemanticGuidanceKeepApart]
