from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from comfy_api.latest import io, ui
from torch import Tensor

from ..drawing import DIVERGING, LegendEntry, heat_map, region_picture
from ..sampling.region_record import RegionRecord, RegionStep, ShownWord, WordStep, by_words, steps_shown, word_masks
from ..sampling.region_record import Regions as RegionsOfRun
from .checks import checked, naming
from .inputs import LATENT_TOOLTIP
from .pictures import BUDGET, gallery, picture_name, pictures_behind
from .sockets import CATEGORY, Regions

NODE = "Region Preview"


class SemanticGuidanceRegionPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceRegionPreview",
            display_name="Region Preview",
            category=CATEGORY,
            description="Shows the regions of S-CFG, Keep Apart or Regional Prompts while sampling: each word's or "
            "prompt's part of the image in its own colour, how large it is, and how strongly it was guided.",
            search_aliases=["attention map", "segmentation", "s-cfg", "keep apart", "regional prompts",
                            "semantic guidance", "heat map"],
            is_output_node=True,
            inputs=[
                Regions.Input(
                    "regions",
                    tooltip="From the S-CFG, Keep Apart or Regional Prompts node whose model made the latent.",
                ),
                io.Latent.Input("latent", tooltip=LATENT_TOOLTIP),
                io.Image.Input(
                    "image", optional=True,
                    tooltip="The decoded latent, to draw the regions on. Without it they are drawn on plain grey. Of a "
                    "clip, all decoded frames.",
                ),
                io.Int.Input(
                    "step", default=-1, min=-1, max=10000,
                    tooltip="Which sampling step to show, counted from 1. -1 is the last one, 0 shows all of them.",
                ),
                io.Float.Input(
                    "opacity", default=0.55, min=0.0, max=1.0, step=0.05, round=0.001,
                    tooltip="How much the colours cover the image. Under them the image is grey, so that each colour "
                    "stands for a word.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="regions",
                    tooltip="The coloured regions with a legend of words; step by step, and in it image by image. Each "
                    "frame of a clip's latent counts as an image. Many pictures are made smaller.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="A hard mask for each word, in the order of the legend, image by image; of the step shown, "
                    "or of the last step where all are shown. Together they cover every pixel once. Each "
                    "frame of a clip's latent counts as an image.",
                ),
                io.Image.Output(
                    display_name="rates",
                    tooltip="How strongly each place was guided: 1 is plain CFG. The scale is the same for all steps.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, regions: RegionRecord, latent: dict, image: Tensor | None = None, step: int = -1,
                opacity: float = 0.55) -> io.NodeOutput:
        with naming(NODE):
            run = regions.of(latent["samples"])
            chosen = steps_shown(run, step)
        words, steps = by_words(run, chosen)
        behind = pictures_behind(image, run.batch, run.frames, NODE)
        scale = _ends([seen.rate_map for seen in run.steps])
        shown = [
            _Shown(by_word, number, _title(recorded, run, number))
            for by_word, recorded in zip(steps, chosen, strict=True) for number in range(len(behind))
        ]
        pictures = gallery((
            region_picture(step.owner[number], _legend(words, step, number), behind[number], opacity, title)
            for step, number, title in shown
        ), len(shown), BUDGET // 2)
        heat = gallery((
            heat_map(step.rate_map[number], behind[number], title, scale, DIVERGING, unit="x")
            for step, number, title in shown
        ), len(shown), BUDGET // 2)
        masks = _masks(steps[-1], len(words), behind[0], run.downscale)
        return io.NodeOutput(pictures, masks, heat, ui=ui.PreviewImage([*pictures, *heat], cls=cls))


class _Shown(NamedTuple):
    """One picture of one step."""

    step: WordStep
    number: int
    title: str


def _title(recorded: RegionStep, run: RegionsOfRun, number: int) -> str:
    parts = [f"Step {recorded.step + 1}", f"sigma {recorded.sigma:.3g}", picture_name(number, run.batch, run.frames)]
    return ", ".join(filter(None, parts))


def _ends(rate_maps: list[Tensor]) -> tuple[float, float]:
    return min(float(rates.min()) for rates in rate_maps), max(float(rates.max()) for rates in rate_maps)


def _legend(words: tuple[ShownWord, ...], shown: WordStep, index: int) -> list[LegendEntry]:
    texts = [word.text for word in words]
    entries = []
    for word, share, rate in zip(words, shown.shares[index].tolist(), shown.rates[index].tolist(), strict=True):
        label = word.text or "(no word)"
        if texts.count(word.text) > 1:
            label += f" (prompt {word.prompt + 1})"
        entries.append(LegendEntry(label, word.number, share, rate if share else None))
    return entries


def _masks(shown: WordStep, count: int, image: Tensor | None, downscale: int) -> Tensor:
    """[P * count, H, W] in 0 or 1, at the image's size, or at the size that the latent decodes to."""
    height, width = shown.owner.shape[1:]
    size = (height * downscale, width * downscale) if image is None else tuple(image.shape[:2])
    owner = F.interpolate(shown.owner[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
    return word_masks(owner, count).flatten(0, 1).float()


NODES = [SemanticGuidanceRegionPreview]
