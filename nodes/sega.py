from __future__ import annotations

from comfy_api.latest import io

from ..guidance.sega import Edit, Momentum
from ..sampling.sega.concepts import UNITS, Concept, Unit
from ..sampling.sega.run import patch_sega
from ..words.phrases import split_phrases
from .checks import checked
from .sockets import CATEGORY, Concepts

DIRECTIONS = ["add", "remove"]

WARMUP_TOOLTIP = (
    "When the edit begins. Earlier steps lay out the picture, so a later start changes less of it. 20 percent are the "
    "paper's 10 of 50 steps. Until then the edit only builds up the momentum."
)
CONFINE_TOOLTIP = (
    "Words of the concept's prompt, between commas. The edit acts only where the model sees them while it predicts the "
    'concept (the attention mask of LEDITS++). Encode the concept with "Prompt with Words". Empty: no confinement.'
)


class SemanticGuidanceConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceConcept",
            display_name="SEGA Concept",
            category=CATEGORY,
            description="One edit for SEGA: a concept that the picture moves towards or away from, such as "
            '"a blue balloon" or "glasses". Several are chained through previous.',
            search_aliases=["sega", "semantic guidance", "concept slider", "edit concept", "ledits"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip='The concept\'s prompt on its own, such as "a blue balloon" or "glasses"; not the whole '
                    "prompt of the picture.",
                ),
                io.Combo.Input(
                    "direction", options=DIRECTIONS, default="add",
                    tooltip="Whether the picture moves towards the concept or away from it. This changes or removes "
                    "what is there; it rarely adds a second subject.",
                ),
                io.Float.Input(
                    "edit_guidance_scale", default=5.0, min=0.0, max=100.0, step=0.5, round=0.001,
                    tooltip="How strongly the concept acts. The paper uses 3 to 10. 0 is no edit.",
                ),
                io.Float.Input(
                    "threshold", default=0.9, min=0.0, max=1.0, step=0.01, round=0.001,
                    tooltip="The share of the picture that the edit leaves alone, in each latent channel. 0.9 lets it "
                    "act on the tenth where it is strongest; small details need more, large changes less.",
                ),
                io.Float.Input(
                    "warmup", default=20.0, min=0.0, max=1000.0, step=1.0, round=0.01, tooltip=WARMUP_TOOLTIP,
                ),
                io.Float.Input(
                    "cooldown", default=0.0, min=0.0, max=1000.0, step=1.0, round=0.01, advanced=True,
                    tooltip="When the edit ends, counted from the start like the warm-up. 0: never.",
                ),
                io.Combo.Input(
                    "counted_in", options=list(UNITS), default="percent", advanced=True,
                    tooltip="Whether warm-up and cooldown are percent of the noise schedule, which do not depend on "
                    "the number of steps, or sampler steps from 0 as in the paper.",
                ),
                io.Float.Input(
                    "weight", default=1.0, min=0.0, max=100.0, step=0.05, round=0.001, advanced=True,
                    tooltip="The concept's share among several. Once all act, the edit is multiplied by it; while "
                    "others still warm up, the weights of those that act are made to sum to 1.",
                ),
                io.String.Input("confine_to", default="", advanced=True, tooltip=CONFINE_TOOLTIP),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="Confines the edit: it acts fully where the mask is 1, and not at all where it is 0. In a "
                    "video, a batch of masks is spread over the frames.",
                ),
                Concepts.Input("previous", optional=True, tooltip="Concepts to which this one is added."),
            ],
            outputs=[Concepts.Output(display_name="concepts", tooltip="The previous concepts and this one.")],
        )

    @classmethod
    @checked
    def execute(
        cls, conditioning, direction: str, edit_guidance_scale: float, threshold: float, warmup: float,
        cooldown: float, counted_in: Unit, weight: float, confine_to: str, mask=None, previous=None,
    ) -> io.NodeOutput:
        edit = Edit(edit_scale=edit_guidance_scale, threshold=threshold, weight=weight, remove=direction == "remove")
        words = tuple(split_phrases(confine_to))
        concept = Concept(
            conditioning, edit, warmup=warmup, cooldown=cooldown, unit=counted_in, mask=mask, confine_to=words
        )
        return io.NodeOutput((*(previous or ()), concept))


class SemanticGuidanceSEGA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceSEGA",
            display_name="SEGA (Concept Editing)",
            category=CATEGORY,
            description="Changes one thing in a picture or video while it is sampled, such as a colour, or takes it "
            "away, and leaves the rest much as it is with the same seed. Another subject is better written into the "
            "prompt. Each concept is one more prompt that the model evaluates in every step.",
            search_aliases=["sega", "semantic guidance", "concept editing", "stable artist", "ledits", "slider"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Any model, for pictures or video. confine_to needs one whose attention can be read: see "
                    "the table of models in the documentation.",
                ),
                Concepts.Input("concepts", tooltip="The edits, from SEGA Concept."),
                io.Float.Input(
                    "momentum_scale", default=0.1, min=0.0, max=0.99, step=0.01, round=0.001,
                    tooltip="How much of the momentum is added to the edit in each step. It makes edits steadier and, "
                    "in the long run, 1 / (1 - momentum_scale) times as strong. 0: no momentum.",
                ),
                io.Float.Input(
                    "momentum_beta", default=0.4, min=0.0, max=1.0, step=0.05, round=0.001, advanced=True,
                    tooltip="How slowly the momentum follows the edit. 0 is the last step's edit alone; 1 never moves.",
                ),
                io.Boolean.Input(
                    "momentum_after_cooldown", default=True, advanced=True,
                    tooltip="Whether the momentum fades out after the last concept has cooled down, as in the authors' "
                    "code, or ends with it.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, which now samples with these edits.")],
        )

    @classmethod
    @checked
    def execute(
        cls, model, concepts, momentum_scale: float, momentum_beta: float, momentum_after_cooldown: bool
    ) -> io.NodeOutput:
        momentum = Momentum(
            scale=momentum_scale, beta=momentum_beta, ends_with_cooldown=not momentum_after_cooldown
        )
        return io.NodeOutput(patch_sega(model, concepts, momentum))


NODES = [SemanticGuidanceConcept, SemanticGuidanceSEGA]
