from __future__ import annotations

from typing import NamedTuple

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..drawing.curves import Curve, curve_picture, whole_scale
from ..guidance.attention_maps import enlarge
from ..guidance.meter import clipped_share
from ..sampling.meter.record import Measured, MeterRecord
from .checks import checked, naming
from .inputs import LATENT_TOOLTIP
from .pictures import pictures_behind
from .sockets import CATEGORY, Meter

NODE = "Meter Curves"
PICTURE = "picture"


class SemanticGuidanceMeterCurves(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceMeterCurves",
            display_name=NODE,
            category=CATEGORY,
            description="Draws what Guidance Meter measured, step by step, for one chain of nodes or for two in one "
            "plot.",
            search_aliases=["effective cfg", "plot", "compare guidance", "cfg plot", "semantic guidance"],
            is_output_node=True,
            inputs=[
                Meter.Input("meter", tooltip="From the Guidance Meter whose model made the latent."),
                io.Latent.Input("latent", tooltip=LATENT_TOOLTIP),
                io.Image.Input(
                    "image", optional=True,
                    tooltip="The decoded latent, to tell how many of its colour values are clipped.",
                ),
                Meter.Input(
                    "other_meter", optional=True, tooltip="From a second Guidance Meter, to compare with: dashed."
                ),
                io.Latent.Input("other_latent", optional=True, tooltip="The latent that belongs to the second meter."),
                io.Image.Input("other_image", optional=True, tooltip="The second latent, decoded."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="scale",
                    tooltip="For each image, the effective CFG scale over the steps: with plain CFG it is cfg.",
                ),
                io.Image.Output(
                    display_name="norm",
                    tooltip="For each image, how long the guided prediction is, next to that of the positive prompt.",
                ),
                io.String.Output(
                    display_name="summary", tooltip="The same in words, with the share of clipped values."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, meter: MeterRecord, latent: dict, image: Tensor | None = None, other_meter: MeterRecord | None = None,
        other_latent: dict | None = None, other_image: Tensor | None = None,
    ) -> io.NodeOutput:
        if (other_meter is None) != (other_latent is None):
            raise ValueError(f"{NODE}: a second meter needs its own latent. Connect both, or neither.")
        runs = [_Shown(_measured(meter, latent), image, _is_clip(latent))]
        if other_meter is not None and other_latent is not None:
            runs.append(_Shown(_measured(other_meter, other_latent), other_image, _is_clip(other_latent)))
        measured = [shown.run for shown in runs]
        batches = [len(run.steps[0].scale) for run in measured]
        if len(set(batches)) > 1:
            raise ValueError(f"{NODE}: one latent has {batches[0]} images and the other {batches[1]}. Sample as many.")
        scales = [_drawn(measured, number, "scale", "Effective CFG scale") for number in range(batches[0])]
        norms = [_drawn(measured, number, "ratio", "Norm of guided / positive") for number in range(batches[0])]
        lines = [line for number in range(batches[0]) for line in _summaries(runs, number)]
        return io.NodeOutput(
            torch.stack(scales), torch.stack(norms), "\n".join(lines), ui=ui.PreviewImage([*scales, *norms], cls=cls)
        )


class _Shown(NamedTuple):
    """A run with its decoded latent, if that is connected, and whether that is a clip for each of the batch."""

    run: Measured
    image: Tensor | None
    is_clip: bool


def _is_clip(latent: dict) -> bool:
    """Video, or video with sound."""
    return latent["samples"].is_nested or latent["samples"].ndim == 5


def _measured(meter: MeterRecord, latent: dict) -> Measured:
    with naming(NODE):
        return meter.of(latent["samples"])


def _drawn(runs: list[Measured], image: int, kind: str, title: str) -> Tensor:
    """One image's curves of all runs: the picture's, then each word's; those of the second run dashed."""
    steps = sorted({step.step for run in runs for step in run.steps})
    names = list(dict.fromkeys(word for run in runs for word in (PICTURE, *run.words)))
    curves = []
    for number, run in enumerate(runs):
        values = {step.step: getattr(step, kind)[image] for step in run.steps}
        none = torch.full((1 + len(run.words),), torch.nan)
        table = torch.stack([values.get(step, none) for step in steps])  # [steps, 1 + words]
        for column, name in enumerate((PICTURE, *run.words)):
            mean = float(table[:, column].nanmean())
            label = f"{name} (second meter)" if number else name
            curves.append(Curve(
                f"{label}, mean {mean:.2f}" if mean == mean else label, table[:, column], names.index(name),
                bool(number), run.nothing or "nowhere",
            ))
    if len(runs[0].steps[0].scale) > 1:
        title += f", image {image + 1}"
    return curve_picture([step + 1 for step in steps], curves, (), title, "sampling step", whole_scale(curves))


def _summaries(runs: list[_Shown], number: int) -> list[str]:
    """One line for each run, of one image of the batch."""
    lines = []
    for index, shown in enumerate(runs):
        run = shown.run
        batch = len(run.steps[0].scale)
        names = (["second meter"] if index else []) + ([f"image {number + 1}"] if batch > 1 else [])
        line = "".join(f"{name}: " for name in names) + run.summary(number)
        if shown.image is not None:
            shares = _clipped(run, shown.image, number, shown.is_clip)
            told = [f"{name} {100 * share:.1f} %" for name, share in zip((PICTURE, *run.words), shares, strict=True)]
            line += f" Colour values at 0 or 1: {', '.join(told)}."
        lines.append(line)
    return lines


def _clipped(run: Measured, image: Tensor, number: int, is_clip: bool) -> list[float]:
    """The share of clipped values in the picture and in each word's region, over all frames of a clip."""
    batch = len(run.steps[0].scale)
    frames = 1
    if is_clip:
        frames = len(image) // batch if run.regions is None else run.regions.shape[2]
    pictures = pictures_behind(image, batch, frames, NODE)[number * frames : (number + 1) * frames]
    shares = []
    for frame, picture in enumerate(pictures):
        regions = torch.ones((1, *picture.shape[:2]))
        if run.regions is not None:
            words = run.regions[number : number + 1].float()
            words = words[:, :, frame] if words.ndim == 5 else words
            regions = torch.cat([regions, enlarge(words, picture.shape[:2])[0]])
        shares.append(clipped_share(picture[..., :3], regions))
    return torch.stack(shares).nanmean(dim=0).tolist()


NODES = [SemanticGuidanceMeterCurves]
