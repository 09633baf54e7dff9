from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sampling.word_strength.patch import patch_word_strength
from ..sampling.word_strength.settings import NODE, Settings
from ..words.phrases import split_phrases
from .checks import checked, naming
from .curves import Curve, checked_curve
from .sockets import CATEGORY, AttentionTrace


class SemanticGuidanceWordStrength(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceWordStrength",
            display_name=NODE,
            category=CATEGORY,
            description="Makes words of the prompt count more or less, also on models whose text encoder ignores "
            "(word:1.3), and at cfg 1. Connect the model and the conditioning to the same sampler.",
            search_aliases=["prompt weight", "word weight", "emphasis", "token weight", "negpip", "negative word",
                            "attention", "semantic guidance"],
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="Any model for strengths from 0 to 1; above 1 and below 0 one whose "
                               "attention can be changed. The help says which."),
                io.Conditioning.Input("conditioning", tooltip="Your prompt, from Prompt with Words."),
                io.String.Input(
                    "words", default="",
                    tooltip="The words or phrases of the prompt that are to count more or less, separated by commas: "
                    "cat, red balloon. For other words with another strength, add one more of these nodes.",
                ),
                io.Float.Input(
                    "strength", default=2.0, min=-3.0, max=10.0, step=0.25, round=0.001,
                    tooltip="1 changes nothing. 2 is as if the word stood there twice. 0 takes it out of the prompt, "
                    "below 0 steers away from it. Whole numbers above 1 cost nothing.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Start of the part of sampling in which the words have this strength.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="End of that part.",
                ),
                io.Clip.Input(
                    "clip", optional=True,
                    tooltip="Needed for strengths below 1: the text encoder that Prompt with Words has.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Where the words have this strength; elsewhere it is 1."),
                Curve.Input(
                    "curve", optional=True, extra_dict={"forceInput": True},
                    tooltip="How far the strength is reached, from the first step (left) to the last: 0 is a strength "
                    "of 1, and 1 is all of it.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model, which now samples with these words stronger or weaker."),
                io.Conditioning.Output(
                    tooltip="The prompt for the sampler. It goes with the model of this node, and with no other."
                ),
                AttentionTrace.Output(
                    display_name="attention",
                    tooltip="What was done, and how the model attends to each word. Connect to Attention Curves.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model, conditioning: list, words: str, strength: float, start_percent: float, end_percent: float,
        clip: Any = None, mask: Tensor | None = None, curve: Any = None,
    ) -> io.NodeOutput:
        with naming(NODE):
            drawn = None if curve is None else checked_curve(curve)
            if mask is not None and not mask.isfinite().all():
                raise ValueError("mask has values that are not numbers (NaN). Connect another mask")
        settings = Settings(tuple(split_phrases(words)), strength, start_percent, end_percent, mask, drawn)
        return io.NodeOutput(*patch_word_strength(model, conditioning, settings, clip))


NODES = [SemanticGuidanceWordStrength]
