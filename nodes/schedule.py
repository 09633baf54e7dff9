from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sampling.schedule.run import NODE, PRESETS, Settings, patch_schedule
from ..words.factors import MOST, word_factors
from .checks import checked, naming
from .curves import Curve, checked_curve
from .inputs import MAP_SCALE_TOOLTIP, MAP_SCALES
from .sockets import CATEGORY


class SemanticGuidanceSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceSchedule",
            display_name=NODE,
            category=CATEGORY,
            description="Guides more at some moments of sampling than at others: in the whole picture, inside a mask, "
            "or where the model sees the words you name. Its factor acts on cfg - 1: with 1 cfg stays what it is, with "
            "0 there is no guidance, as at cfg 1. Needs cfg above 1.",
            search_aliases=["cfg schedule", "cfg scheduler", "dynamic cfg", "guidance interval", "cfg++",
                            "cfg per word", "weight scheduler", "semantic guidance"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="Any model. To name words, one whose attention can be read, as for S-CFG."
                ),
                io.Combo.Input(
                    "preset", options=list(PRESETS), default="linear",
                    tooltip="How guidance changes while sampling. 'linear' and 'cosine' rise from none to twice as "
                    "much, as in the paper; 'inverse linear' and 'inverse cosine' fall. 'V' is least in the middle, "
                    "'Lambda' most. 'window' guides only from start to end. 'CFG++' gives the samplers euler and ddim "
                    "the scales of CFG++, whatever cfg is, unless it is 1.",
                ),
                io.Float.Input(
                    "factor", default=1.0, min=0.0, max=MOST, step=0.05, round=0.001,
                    tooltip="What the preset is multiplied by. 'constant' with 1 changes nothing.",
                ),
                io.String.Input(
                    "words", default="",
                    tooltip="Words or phrases of the prompt, separated by commas, where guidance is to change: face, "
                    "hands. A number after a colon is a word's own factor: hands: 1.5, sky: 0.7. Empty for the whole "
                    "picture. Encode the prompt with Prompt with Words; token numbers such as #2 work with any text "
                    "encoding node.",
                ),
                io.Float.Input(
                    "clamp", default=0.0, min=0.0, max=30.0, step=0.5, round=0.001, advanced=True,
                    tooltip="The least that cfg - 1 may become, the c of the paper's clamped schedules. 0 is no limit.",
                ),
                io.Float.Input(
                    "power", default=1.0, min=0.01, max=10.0, step=0.1, round=0.001, advanced=True,
                    tooltip="The s of 'powered cosine', which rises from 0 to cfg - 1: sooner below 1, later above.",
                ),
                io.Float.Input(
                    "cfgpp_lambda", default=0.6, min=0.0, max=2.0, step=0.05, round=0.001, advanced=True,
                    tooltip="The lambda of 'CFG++'. In the paper it is from 0 to 1; its example has 0.6.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Start of the part of sampling in which the schedule acts. Outside of it cfg stays what it "
                    "is; with 'window' there is no guidance there.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="End of the part of sampling in which the schedule acts.",
                ),
                io.Combo.Input(
                    "map_scale", options=list(MAP_SCALES), default="auto", advanced=True, tooltip=MAP_SCALE_TOOLTIP
                ),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="Where the schedule acts; elsewhere cfg stays what it is. With words, where both say so.",
                ),
                Curve.Input(
                    "curve", optional=True, extra_dict={"forceInput": True},
                    tooltip="A curve of your own in place of the preset, from a Curve Editor. Its x is the share of "
                    "sampling that is done, its y is multiplied by the factor.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, which now samples with this schedule.")],
        )

    @classmethod
    @checked
    def execute(
        cls, model, preset: str, factor: float, words: str, clamp: float, power: float, cfgpp_lambda: float,
        start_percent: float, end_percent: float, map_scale: str, mask: Tensor | None = None, curve: Any = None,
    ) -> io.NodeOutput:
        with naming(NODE):
            named = word_factors(words)
            drawn = None if curve is None else checked_curve(curve)
            if mask is not None and not mask.isfinite().all():
                raise ValueError("mask has values that are not numbers (NaN). Connect another mask")
        settings = Settings(
            preset=preset, factor=factor, words=named, clamp=clamp, power=power, cfgpp_lambda=cfgpp_lambda,
            start_percent=start_percent, end_percent=end_percent, downsample=MAP_SCALES[map_scale], mask=mask,
            curve=drawn,
        )
        return io.NodeOutput(patch_schedule(model, settings))


NODES = [SemanticGuidanceSchedule]
