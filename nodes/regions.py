from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..sampling.regional.patch import patch_regional
from ..sampling.regional.region import NODE, Boxes, Region
from ..sampling.regional.run import Settings
from ..sampling.regional.snap import SNAPS
from .checks import checked, naming
from .sockets import CATEGORY, RegionalPrompts, Regions


class SemanticGuidanceRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceRegions",
            display_name=NODE,
            category=CATEGORY,
            description="Gives parts of the picture prompts of their own, inside the model's attention: one model call "
            "for all of them, at any cfg, on nearly every model. Connect both outputs to the sampler.",
            search_aliases=["regional prompter", "attention couple", "area composition", "bounding boxes",
                            "regions", "couple", "semantic guidance"],
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="The help says which models work."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The base prompt: what the whole picture shows, and all that is outside of the regions.",
                ),
                RegionalPrompts.Input("regions", tooltip="From Region, the last one of the chain."),
                io.Int.Input(
                    "width", default=1024, min=16, max=16384, step=8,
                    tooltip="Width of the canvas on which boxes were drawn, in pixels. Masks do not need it.",
                ),
                io.Int.Input(
                    "height", default=1024, min=16, max=16384, step=8,
                    tooltip="Height of the canvas on which boxes were drawn, in pixels.",
                ),
                io.Float.Input(
                    "isolate", default=0.0, min=0.0, max=1.0, step=0.05, round=0.001, advanced=True,
                    tooltip="The share of the model's blocks in which regions do not look at each other: 0.5 is every "
                    "second one. Higher keeps subjects apart and shows seams. Acts on transformers in which text and "
                    "picture attend to each other in one call.",
                ),
                io.Float.Input(
                    "isolate_until", default=0.5, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="The part of sampling until which isolate acts.",
                ),
                io.Combo.Input(
                    "snap", options=list(SNAPS), default="off",
                    tooltip="Whether masks and boxes shrink, after the first fifth of the steps, to where the model "
                    "sees their own prompt: 'inside' within them, 'free' also a little beyond. Where it sees the "
                    "prompt nowhere there, they stay.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Start of the part of sampling in which the regions act.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="End of the part of sampling in which the regions act.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model, which now samples with these regions."),
                io.Conditioning.Output(tooltip="The base prompt, for the positive input of the sampler."),
                Regions.Output(display_name="record", tooltip="Where each prompt acted, for Region Preview."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model, conditioning: list, regions: tuple[Region, ...], width: int, height: int, isolate: float,
        isolate_until: float, snap: str, start_percent: float, end_percent: float,
    ) -> io.NodeOutput:
        placed = []
        for number, region in enumerate(regions, start=1):
            if isinstance(region.place, Boxes):
                with naming(f"{NODE}: region {number} cannot act"):
                    region = replace(region, place=region.place.on(width, height))
            placed.append(region)
        settings = Settings(isolate, isolate_until, snap, start_percent, end_percent)
        return io.NodeOutput(*patch_regional(model, conditioning, tuple(placed), settings))


NODES = [SemanticGuidanceRegions]
