from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..drawing import heat_map
from ..drawing.curves import Curve, curve_picture, whole_scale
from ..sampling.attention_record import AttentionRecord, WordCurves
from .checks import checked, naming
from .inputs import LATENT_TOOLTIP
from .sockets import CATEGORY, AttentionTrace

NODE = "Attention Curves"


class SemanticGuidanceAttentionCurves(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceAttentionCurves",
            display_name="Attention Curves",
            category=CATEGORY,
            description="Shows what Attend-and-Excite, Keep Apart or Word Strength did: how strongly the model attends "
            "to each word, step by step, and where in the picture.",
            search_aliases=["attend and excite", "word strength", "keep apart", "attention map", "plot", "heat map",
                            "semantic guidance"],
            is_output_node=True,
            is_experimental=True,
            inputs=[
                AttentionTrace.Input(
                    "attention",
                    tooltip="From the Attend-and-Excite, Keep Apart or Word Strength node whose model made the latent.",
                ),
                io.Latent.Input("latent", tooltip=LATENT_TOOLTIP),
                io.Image.Input(
                    "image", optional=True, tooltip="The decoded latent, to lay the maps over.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="curves",
                    tooltip="For each image, the highest attention to each word over the steps in which the node "
                    "acted. Dashes are what Attend-and-Excite's refinements aim at, or a strength that changes.",
                ),
                io.Image.Output(
                    display_name="maps",
                    tooltip="Where each word is attended to at the last of these steps: all words of the first image, "
                    "then of the second.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, attention: AttentionRecord, latent: dict, image: Tensor | None = None) -> io.NodeOutput:
        with naming(NODE):
            trace = attention.of(latent["samples"])
        if not trace.steps:
            raise ValueError(f"{NODE}: there is nothing to draw; {trace.summary()}")
        shown = trace.curves()
        batch = shown.peaks.shape[1]
        if image is not None and len(image) != batch:
            raise ValueError(
                f"{NODE}: {len(image)} images for {batch} latents. Connect the images decoded from this latent, or "
                "none."
            )
        curves = [_curves(shown, index) for index in range(batch)]
        maps = [picture for index in range(batch) for picture in _maps(shown, index, image)]
        return io.NodeOutput(torch.stack(curves), torch.stack(maps), ui=ui.PreviewImage([*curves, *maps], cls=cls))


def _curves(shown: WordCurves, index: int) -> Tensor:
    """One image's curves."""
    notes = shown.notes[index : index + 1]
    image = [f"image {index + 1}"] if shown.peaks.shape[1] > 1 else []
    missing = "attention was not read" if shown.strengths else "in no prompt that acts"
    curves = [Curve(word, shown.peaks[:, index, n], missing=missing) for n, word in enumerate(shown.words)]
    if len(set(shown.strengths)) > 1:
        curves.append(Curve("strength", torch.tensor(shown.strengths), dashed=True))
    targets = [(step + 1, value) for step, value in shown.targets]
    title = ", ".join(["Attention to each word", *notes, *image])
    steps = [step + 1 for step in shown.steps]
    return curve_picture(steps, curves, targets, title, axis="sampling step", scale=whole_scale(curves))


def _maps(shown: WordCurves, index: int, image: Tensor | None) -> list[Tensor]:
    """One picture per word, all on one scale."""
    behind = None if image is None else image[index]
    return [
        heat_map(scores.float(), behind, f"{word}, step {shown.steps[-1] + 1}", shown.scale)
        for word, scores in zip(shown.words, shown.maps[index], strict=True)
    ]


NODES = [SemanticGuidanceAttentionCurves]
