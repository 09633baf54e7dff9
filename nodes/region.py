from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sampling.regional.region import Region
from ..words.phrases import split_phrases
from .checks import checked, naming
from .places import Place, checked_place
from .sockets import CATEGORY, RegionalPrompts

NODE = "Region"


class SemanticGuidanceRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceRegion",
            display_name=NODE,
            category=CATEGORY,
            description="A prompt for a part of the picture: inside a mask, in boxes, or where the model sees words of "
            "the base prompt. Several are chained through previous, and Regional Prompts makes them act.",
            search_aliases=["regional prompt", "area prompt", "attention couple", "prompt mask", "bounding box",
                            "conditioning mask", "semantic guidance"],
            is_experimental=True,
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="What this part of the picture shows, as a prompt of its own.",
                ),
                Place.Input(
                    "where", optional=True,
                    tooltip="A mask, a Bounding Box, or the bboxes or elements of Create Bounding Boxes. Soft edges "
                    "of masks stay soft. Where regions overlap, the first of the chain wins.",
                ),
                io.String.Input(
                    "words", default="",
                    tooltip="... or where the model sees these words of the base prompt, from the second step on: cat, "
                    "red balloon. With a place in where, both must say so. Encode the base prompt with Prompt with "
                    "Words.",
                ),
                io.Float.Input(
                    "strength", default=0.5, min=0.0, max=1.0, step=0.05, round=0.001,
                    tooltip="This prompt's share inside the region; the base prompt has the rest. 0 changes nothing.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True,
                    tooltip="What this part must not show. Acts at cfg 1 as well.",
                ),
                io.Float.Input(
                    "negative_strength", default=1.0, min=0.0, max=3.0, step=0.1, round=0.001,
                    tooltip="How strongly the words of the negative are turned round. 0 leaves them out.",
                ),
                RegionalPrompts.Input("previous", optional=True, tooltip="Regions that come before this one."),
                io.Int.Input(
                    "box", default=0, min=0, max=1000, optional=True, advanced=True,
                    tooltip="Which of several boxes in where this is, counted from 1. 0 is all of them together.",
                ),
            ],
            outputs=[RegionalPrompts.Output(display_name="regions", tooltip="The previous regions and this one.")],
        )

    @classmethod
    @checked
    def execute(
        cls, conditioning: list, words: str, strength: float, negative_strength: float, where: Any = None,
        negative: list | None = None, previous: tuple | None = None, box: int = 0,
    ) -> io.NodeOutput:
        phrases = tuple(split_phrases(words))
        with naming(NODE):
            place = None if where is None else checked_place(where, box)
            if place is None and not phrases:
                raise ValueError("it has no place. Connect where, or name words of the base prompt")
            for name, prompt in (("conditioning", conditioning), ("negative", negative)):
                if prompt is not None and len(prompt) != 1:
                    raise ValueError(f"{name} has {len(prompt)} prompts, but a region takes one. Use a region for "
                                     "each, or Conditioning (Concat)")
        region = Region(conditioning, place, phrases, strength, negative, negative_strength)
        return io.NodeOutput((*(previous or ()), region))


NODES = [SemanticGuidanceRegion]
