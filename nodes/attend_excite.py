from __future__ import annotations

from comfy_api.latest import io

from ..guidance.attend_excite import Excitation
from ..sampling.attend_excite.losses import AttentionLoss
from ..sampling.attend_excite.run import Settings, patch_attend_excite
from ..sampling.attend_excite.time_travel import Travel
from ..words.phrases import split_phrases
from .checks import checked
from .inputs import MAP_SCALES
from .sockets import CATEGORY, AttentionTrace, Losses

PAPER = Excitation()
POLYAK = "Polyak"
STEP_SIZES = ["paper", POLYAK]
POLYAK_ETA = 0.005
THRESHOLD_TOOLTIP = (
    "At {} of the steps the latent is refined until every word's attention reaches this. 0 refines nothing there."
)


def _threshold(name: str, number: int, when: str) -> io.Float.Input:
    return io.Float.Input(
        name, default=PAPER.thresholds[number][1], min=0.0, max=1.0, step=0.05, round=0.001, advanced=True,
        tooltip=THRESHOLD_TOOLTIP.format(when),
    )


class SemanticGuidanceAttendExcite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceAttendExcite",
            display_name="Attend-and-Excite",
            category=CATEGORY,
            description="Moves the latent while the layout is being decided, until the model attends to each of the "
            "words somewhere, so that no subject is left out: \"a horse and a dog\" gets its horse and its dog. "
            "Costs about one more pass of the model, with its gradient, in the first half of the steps.",
            search_aliases=["attend and excite", "a&e", "missing object", "catastrophic neglect", "two subjects",
                            "attribute binding", "semantic guidance"],
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to guide, not quantised. The help says which models work."),
                io.String.Input(
                    "words", default="",
                    tooltip="The subjects that must not be left out, as words or phrases of the prompt, separated by "
                    "commas: cat, red balloon. Encode it with Prompt with Words; token numbers such as #2 "
                    "work with any text encoding node.",
                ),
                io.Float.Input(
                    "scale_factor", default=PAPER.scale_factor, min=0.0, max=200.0, step=1.0, round=0.001,
                    tooltip="How far the latent moves at each step. The paper uses 20. 0 changes nothing.",
                ),
                io.Int.Input(
                    "max_refinements", default=PAPER.max_refinements, min=0, max=100,
                    tooltip="How often the latent may be moved again at a step with a threshold, each time at the "
                    "cost of a pass of the model. The paper uses 20; on this project's small models, 5 or 0 did as "
                    "well on the UNet, and 20 best on the transformer. 0 is fastest.",
                ),
                io.Float.Input(
                    "active_share", default=PAPER.share, min=0.0, max=1.0, step=0.05, round=0.001, advanced=True,
                    tooltip="The share of the steps, from the first on, that move the latent. The paper uses 0.5; "
                    "the layout is decided by then.",
                ),
                io.Float.Input(
                    "scale_start", default=PAPER.scale_range[0], min=0.0, max=2.0, step=0.05, round=0.001,
                    advanced=True, tooltip="The moves are scale_factor times the root of this at the first step ...",
                ),
                io.Float.Input(
                    "scale_end", default=PAPER.scale_range[1], min=0.0, max=2.0, step=0.05, round=0.001,
                    advanced=True, tooltip="... and of this at the last, if all steps moved the latent.",
                ),
                _threshold("threshold_start", 0, "the start"),
                _threshold("threshold_20", 1, "20 %"),
                _threshold("threshold_40", 2, "40 %"),
                io.Float.Input(
                    "max_move", default=PAPER.limit, min=0.001, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="No move is longer than this share of the latent's norm, so that small and large latents "
                    "stay at their noise level.",
                ),
                io.Combo.Input(
                    "map_scale", options=list(MAP_SCALES), default="auto", advanced=True,
                    tooltip="The attention grid that is read, as a share of the latent's size. 'auto' is the one "
                    "nearest to 16x16, the paper's for 512x512 images. Transformers such as SD 3.x have one grid "
                    "alone: leave it at 'auto'.",
                ),
                Losses.Input(
                    "losses", optional=True,
                    tooltip="More that the latent is moved for, from Attention Loss. With these, words may be empty.",
                ),
                io.Float.Input(
                    "enough", default=PAPER.enough, min=0.0, max=1.0, step=0.05, round=0.001, advanced=True,
                    optional=True,
                    tooltip="A picture in which the attention to every word reaches this is not moved for their sake. "
                    "The paper has 1: it is always moved.",
                ),
                io.Combo.Input(
                    "step_size", options=STEP_SIZES, default=STEP_SIZES[0], advanced=True, optional=True,
                    tooltip="How far a move reaches: with 'paper' scale_factor times the gradient, with 'Polyak' "
                    "polyak_eta times the norm of the noise over that of the gradient, however steep the loss is. "
                    "max_move bounds both.",
                ),
                io.Float.Input(
                    "polyak_eta", default=POLYAK_ETA, min=0.0, max=10.0, step=0.001, round=0.00001, advanced=True,
                    optional=True, tooltip="The eta of Polyak's step. 0 changes nothing.",
                ),
                io.Int.Input(
                    "time_travel", default=Travel().times, min=1, max=20, advanced=True, optional=True,
                    tooltip="How often a step that moves the latent is taken, each time from fresh noise. Each time "
                    "costs a whole step. 1 is once.",
                ),
                io.Float.Input(
                    "travel_start", default=Travel().start, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    optional=True, tooltip="Start of the part of sampling in which steps are taken several times.",
                ),
                io.Float.Input(
                    "travel_end", default=Travel().end, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    optional=True, tooltip="End of the part of sampling in which steps are taken several times.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model, which now samples with Attend-and-Excite."),
                AttentionTrace.Output(
                    display_name="attention",
                    tooltip="The attention to each word while sampling with this model. Connect to Attention Curves.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model, words: str, scale_factor: float, max_refinements: int, active_share: float, scale_start: float,
        scale_end: float, threshold_start: float, threshold_20: float, threshold_40: float, max_move: float,
        map_scale: str, losses: tuple[AttentionLoss, ...] | None = None, enough: float = PAPER.enough,
        step_size: str = STEP_SIZES[0], polyak_eta: float = POLYAK_ETA, time_travel: int = 1,
        travel_start: float = Travel().start, travel_end: float = Travel().end,
    ) -> io.NodeOutput:
        values = (threshold_start, threshold_20, threshold_40)
        thresholds = tuple((share, value) for (share, _), value in zip(PAPER.thresholds, values, strict=True) if value)
        excitation = Excitation(
            scale_factor=scale_factor, scale_range=(scale_start, scale_end), share=active_share, thresholds=thresholds,
            max_refinements=max_refinements, limit=max_move, enough=enough,
            polyak=polyak_eta if step_size == POLYAK else None,
        )
        settings = Settings(
            words=tuple(split_phrases(words)), excitation=excitation, downsample=MAP_SCALES[map_scale],
            losses=losses or (), travel=Travel(time_travel, travel_start, travel_end),
        )
        return io.NodeOutput(*patch_attend_excite(model, settings))


NODES = [SemanticGuidanceAttendExcite]
