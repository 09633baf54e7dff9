from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..drawing import heat_map
from ..drawing.curves import Curve, curve_picture
from ..sampling.attend_excite.trace import AttentionRecord, Trace
from .checks import checked
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
            description="Shows what Attend-and-Excite did: how strongly the model attends to each word, step by step, "
            "and where in the picture.",
            search_aliases=["attend and excite", "attention map", "plot", "heat map", "semantic guidance"],
            is_output_node=True,
            is_experimental=True,
            inputs=[
                AttentionTrace.Input(
                    "attention", tooltip="From the Attend-and-Excite node whose model made the latent."
                ),
                io.Latent.Input("latent", tooltip=LATENT_TOOLTIP),
                io.Image.Input(
                    "image", optional=True, tooltip="The decoded latent, to lay the maps over.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="curves",
                    tooltip="For each image, the highest attention to each word over the steps that moved the latent. "
                    "Dashes are what the refinements aim at.",
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
        try:
            trace = attention.of(latent["samples"])
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        if not trace.steps:
            raise ValueError(f"{NODE}: there is nothing to draw; {trace.summary()}")
        batch = len(trace.steps[0].before)
        if image is not None and len(image) != batch:
            raise ValueError(
                f"{NODE}: {len(image)} images for {batch} latents. Connect the images decoded from this latent, or "
                "none."
            )
        curves = [_curves(trace, index) for index in range(batch)]
        maps = [picture for index in range(batch) for picture in _maps(trace, index, image)]
        return io.NodeOutput(torch.stack(curves), torch.stack(maps), ui=ui.PreviewImage([*curves, *maps], cls=cls))


def _curves(trace: Trace, index: int) -> Tensor:
    """One image's curves: the attention at each step, after its refinements."""
    values = torch.stack([step.after[index] for step in trace.steps])
    steps = [step.step + 1 for step in trace.steps]
    refinements = sum(int(step.refinements[index]) for step in trace.steps)
    title = f"Attention to each word, {refinements} refinements"
    if len(trace.steps[0].before) > 1:
        title += f", image {index + 1}"
    curves = [Curve(word, values[:, n]) for n, word in enumerate(trace.words)]
    targets = [(step + 1, value) for step, value in trace.targets if step + 1 in steps]
    return curve_picture(steps, curves, targets, title, axis="sampling step")


def _maps(trace: Trace, index: int, image: Tensor | None) -> list[Tensor]:
    """One picture per word, on the scale of a score, 0 to 1."""
    step = trace.steps[-1]
    return [
        heat_map(scores.float(), None if image is None else image[index], f"{word}, step {step.step + 1}", (0.0, 1.0))
        for word, scores in zip(trace.words, step.maps[index], strict=True)
    ]


NODES = [SemanticGuidanceAttentionCurves]
