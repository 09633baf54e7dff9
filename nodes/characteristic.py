from __future__ import annotations

from comfy_api.latest import io

from ..sampling.characteristic.run import NODE, Settings, patch_characteristic
from .checks import checked
from .sockets import CATEGORY

DEFAULTS = Settings()


class SemanticGuidanceCharacteristic(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceCharacteristic",
            display_name=NODE,
            category=CATEGORY,
            description="Corrects what plain CFG gets wrong at a high cfg, by looking at both prompts again at a "
            "latent that is moved until they agree along the guidance. Slow: with 5 iterations sampling takes up to 6 "
            "times as long. Where it does not converge it is plain CFG; Guidance Meter tells how often.",
            search_aliases=["characteristic guidance", "cfg correction", "high cfg", "fokker-planck",
                            "semantic guidance"],
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="Any model that is sampled with cfg above 1; meant for 10 to 30."),
                io.Int.Input(
                    "iterations", default=DEFAULTS.iterations, min=0, max=50,
                    tooltip="How often both prompts are looked at again in a step, at most; it ends sooner where it "
                    "has converged. Each costs as much as a step of plain CFG. The paper allows 50. 0 changes nothing.",
                ),
                io.Float.Input(
                    "regularization", default=DEFAULTS.regularization, min=0.0, max=100.0, step=0.5, round=0.001,
                    tooltip="Holds the correction back while there is most noise, and fades. Larger converges more "
                    "easily and corrects less. The paper uses 1; its authors advise 5 for SDXL.",
                ),
                io.Float.Input(
                    "tolerance", default=DEFAULTS.tolerance, min=0.00001, max=1.0, step=0.001, round=0.00001,
                    advanced=True,
                    tooltip="What counts as converged: the mean difference between two looks, where noise has 1. The "
                    "paper uses 0.0001, which needs more iterations.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Start of the part of sampling that is corrected.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="End of the part of sampling that is corrected. The authors advise 0.4 where time matters.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, which now samples with Characteristic Guidance.")],
        )

    @classmethod
    @checked
    def execute(
        cls, model, iterations: int, regularization: float, tolerance: float, start_percent: float, end_percent: float
    ) -> io.NodeOutput:
        settings = Settings(
            iterations=iterations, regularization=regularization, tolerance=tolerance, start_percent=start_percent,
            end_percent=end_percent,
        )
        return io.NodeOutput(patch_characteristic(model, settings))


NODES = [SemanticGuidanceCharacteristic]
