from __future__ import annotations

from comfy_api.latest import io

from ..guidance.attention_maps import COMPLETIONS, Completion
from ..sampling.scfg.run import Settings, patch_scfg
from .checks import checked
from .inputs import COMPLETION_TOOLTIP, MAP_SCALE_TOOLTIP, MAP_SCALES
from .sockets import CATEGORY, Regions

WHOLE_IMAGE = "whole image"


class SemanticGuidanceSCFG(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceSCFG",
            display_name="S-CFG (Semantic-aware CFG)",
            category=CATEGORY,
            description="Gives every semantic region its own CFG scale, so that no region burns while another stays "
            "bland. At each step the model's own attention divides the image into regions, and each region's "
            "scale is set so that guidance acts in it as strongly as in the foreground. Needs cfg above 1.",
            search_aliases=["s-cfg", "scfg", "semantic-aware guidance", "regional cfg", "cfg per region",
                            "semantic guidance", "spatial inconsistency"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide. The help says which models work."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05, round=0.001,
                    tooltip="1 is the paper. 0 changes nothing but still records the regions. Above 1 exaggerates.",
                ),
                io.Float.Input(
                    "rate_min", default=0.8, min=0.0, max=1.0, step=0.05, round=0.001,
                    tooltip="A region's scale is at least cfg times this. The paper uses 0.8.",
                ),
                io.Float.Input(
                    "rate_max", default=3.0, min=1.0, max=10.0, step=0.1, round=0.001,
                    tooltip="A region's scale is at most cfg times this. The paper uses 3.",
                ),
                io.Float.Input(
                    "scale_cap", default=15.0, min=0.0, max=100.0, step=0.5, round=0.001, advanced=True,
                    tooltip="No region's scale (cfg times rate) exceeds this, even where rate_min asks for more. "
                    "The paper uses 15. 0 means no cap.",
                ),
                io.Combo.Input(
                    "completion", options=list(COMPLETIONS), default="as released", advanced=True,
                    tooltip=COMPLETION_TOOLTIP,
                ),
                io.Combo.Input(
                    "reference", options=["foreground", WHOLE_IMAGE], default="foreground", advanced=True,
                    tooltip="Where guidance is taken as the standard that all regions are brought to: the foreground "
                    "as the negative prompt sees it (the paper), or the whole image. Only Stable Diffusion and SDXL "
                    "see a foreground; other models always take the whole image.",
                ),
                io.Combo.Input(
                    "map_scale", options=list(MAP_SCALES), default="auto", advanced=True, tooltip=MAP_SCALE_TOOLTIP
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Start of the part of sampling in which S-CFG acts.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="End of the part of sampling in which S-CFG acts.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model, which now samples with S-CFG."),
                Regions.Output(
                    display_name="regions",
                    tooltip="The regions that sampling with this model sees. Connect to Region Preview.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model, strength: float, rate_min: float, rate_max: float, scale_cap: float, completion: Completion,
        reference: str, map_scale: str, start_percent: float, end_percent: float,
    ) -> io.NodeOutput:
        settings = Settings(
            strength=strength, rate_min=rate_min, rate_max=rate_max, scale_cap=scale_cap, completion=completion,
            whole_image=reference == WHOLE_IMAGE, downsample=MAP_SCALES[map_scale], start_percent=start_percent,
            end_percent=end_percent,
        )
        return io.NodeOutput(*patch_scfg(model, settings))


NODES = [SemanticGuidanceSCFG]
