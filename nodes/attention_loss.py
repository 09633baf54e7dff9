from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sampling.attend_excite.losses import KINDS, AttentionLoss
from ..words.phrases import split_phrases
from .checks import checked, naming
from .places import Place, checked_place
from .sockets import CATEGORY, Losses

NODE = "Attention Loss"


class SemanticGuidanceAttentionLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceAttentionLoss",
            display_name=NODE,
            category=CATEGORY,
            description="One more wish for Attend-and-Excite: that subjects keep apart, that they are inside a box or "
            "a mask, or that they take a share of the picture. Several are chained through previous and add up.",
            search_aliases=["boxdiff", "self-cross", "conform", "layout guidance", "self-guidance", "bounding box",
                            "semantic guidance"],
            is_experimental=True,
            inputs=[
                io.Combo.Input(
                    "loss", options=list(KINDS), default="overlap",
                    tooltip="'missing subject' is Attend-and-Excite's own, with a weight. 'overlap' keeps two or more "
                    "subjects from attending to each other's places. 'inside' draws them into a box or a mask and "
                    "away from the rest. 'size' makes each take a share of the picture.",
                ),
                io.String.Input(
                    "words", default="",
                    tooltip="The subjects meant, as words or phrases of the prompt, separated by commas: cat, red "
                    "balloon.",
                ),
                io.Float.Input(
                    "weight", default=1.0, min=0.0, max=100.0, step=0.05, round=0.001,
                    tooltip="How much this loss counts beside the others. 0 leaves it out.",
                ),
                io.Float.Input(
                    "size", default=0.1, min=0.001, max=1.0, step=0.01, round=0.001,
                    tooltip="The share of the picture that each word should take, for the loss 'size'.",
                ),
                Place.Input(
                    "where", optional=True,
                    tooltip="Where the words should be, for the loss 'inside': a mask, a Bounding Box in pixels of the "
                    "picture, or the bboxes or elements of Create Bounding Boxes, which count as one region. In a "
                    "video, a batch of masks is spread over the frames.",
                ),
                Losses.Input("previous", optional=True, tooltip="Losses to which this one is added."),
            ],
            outputs=[
                Losses.Output(
                    display_name="losses",
                    tooltip="The previous losses and this one. Connect to Attend-and-Excite.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, loss: str, words: str, weight: float, size: float, where: Any = None,
        previous: tuple[AttentionLoss, ...] | None = None,
    ) -> io.NodeOutput:
        with naming(NODE):
            asked = AttentionLoss(loss, tuple(dict.fromkeys(split_phrases(words))), weight, size)
            if where is not None:
                place = checked_place(where, 0)
                asked = asked._replace(mask=place) if isinstance(place, Tensor) else asked._replace(
                    boxes=place.edges, in_pixels=place.in_pixels
                )
            _check(asked)
        return io.NodeOutput((*(previous or ()), *((asked,) if weight else ())))


def _check(asked: AttentionLoss) -> None:
    if not asked.words:
        raise ValueError("no words are given. Name words of the prompt, separated by commas")
    if asked.kind == "overlap" and len(asked.words) < 2:
        raise ValueError(f'overlap needs two subjects or more, and there is only "{asked.words[0]}". Name another')
    if asked.mask is not None and not (asked.mask > 0).any():
        raise ValueError("where is an empty mask, so nothing can be inside. Paint where the words should be")
    if asked.kind == "inside" and asked.mask is None and not asked.boxes:
        raise ValueError("inside needs a place. Connect a mask or boxes to where")


NODES = [SemanticGuidanceAttentionLoss]
