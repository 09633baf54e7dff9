"""SEGA in the host: the concepts' predictions from the same model call as CFG's, the edit in the post-CFG function."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import cleanup_models, cond_has_hooks, convert_cond
from comfy.utils import pack_latents, unpack_latents
from torch import Tensor

from ...attention_hooks.families import model_family
from ...attention_hooks.layouts import Layer
from ...attention_hooks.observe import Call
from ...guidance.precision import widen
from ...guidance.sega import Momentum, needed, sega_step
from ..conds import covered
from ..post_cfg import Guidance, add_guidance
from ..processing import Processing
from ..run import PREFIX, Evaluation, current_run
from .concepts import Concept, Prompt, process_prompt, register_hooks
from .confine import ConceptWords, word_layers
from .predictions import Predictions

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

NODE = "SEGA"


class SEGARun(Guidance):
    """One sampling run with concepts.

    The first evaluation of each sampler step advances the momentum. Further evaluations of the same step (2S, SDE)
    use the momentum that the step started with. An evaluation at the next step's sigma (Heun) counts as that step's.
    """

    node = NODE

    def __init__(
        self, guider: CFGGuider, sigmas: Tensor, concepts: tuple[Concept, ...], momentum: Momentum,
        layers: list[Layer],
    ):
        if "negative" not in guider.conds:
            raise ValueError(
                f"{NODE}: this sampler ({type(guider).__name__}) has no negative prompt, against which edits are "
                "measured. Use KSampler or CFG Guider in place of Basic Guider; cfg may stay at 1."
            )
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        self.concepts = concepts
        self.edits = [concept.edit_for(model_sampling, sigmas) for concept in concepts]
        if any(edit.warmup > len(sigmas) - 2 for edit in self.edits):
            momentum = replace(momentum, scale=0.0)  # it acts only once all concepts do, which is never
        self.momentum = momentum
        self.words = ConceptWords(NODE, model_family(guider.model_patcher, NODE), layers) if layers else None
        self.conds = {f"{PREFIX}.concept{i}": convert_cond(c.conditioning) for i, c in enumerate(concepts)}
        register_hooks(guider, list(self.conds.values()))
        self.prompts: list[Prompt] = []
        self.masks: list[Tensor | None] = [None] * len(concepts)  # for the size of the last evaluation
        self.predictions = Predictions(NODE)
        self.step = -1
        self.nu: list[Tensor] | None = None  # of each part of the latent, when this step started
        self.next_nu: list[Tensor] | None = None
        self.not_finite: list[Tensor] = []  # booleans on the device, one for each direction

    def begin_run(self, processing: Processing) -> None:
        self.prompts = [process_prompt(processing, conds) for conds in self.conds.values()]

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.needed = [c for c, edit in enumerate(self.edits) if needed(edit, evaluation.step, self.momentum)]
        prompts = [self.prompts[c] for c in self.needed]  # the negative one last: SAG keeps what it last saw of it
        wanted = [*(prompt.conds for prompt in prompts), *(prompt.negative for prompt in prompts)]
        self.predictions.begin(evaluation.x, wanted)
        if self.words is not None:
            own = [(self.concepts[c], self.prompts[c].conds) for c in self.needed]
            self.words.begin_concepts(own, evaluation.x.shape[0])

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return transformer_options if self.words is None else self.words.watch_forward(call, transformer_options)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        if self.words is not None:
            self.words.end_forward(call, transformer_options)

    def reads_attention(self, evaluation: Evaluation) -> bool:
        return self.words is not None

    def finish(self, samples: Tensor) -> None:
        bad = torch.stack(self.not_finite).sum().item() if self.not_finite else 0
        if bad:
            self.warn_once(
                f"{bad} of {len(self.not_finite)} predictions for concepts had values that are not numbers (NaN); "
                "there the edit was left out. In half precision a model may overflow: try another precision, or "
                "another prompt."
            )

    def guide(self, args: dict[str, Any]) -> Tensor:
        """The host's post-CFG function: denoised [B, C, ...] -> denoised with the edit of this step."""
        x, sigma, denoised = args["input"], args["sigma"], args["denoised"]
        self.predictions.complete(args)
        if not self.needed and self.next_nu is None:
            return denoised
        if args["uncond"] is None:
            self.warn_once(
                "at cfg 1 the edits act, but their strengths are made for models that are sampled with cfg. On "
                "distilled models (Turbo, Lightning, Flux dev) look for an edit_guidance_scale that suits."
            )
        gain = output_gain(args["model"].model_sampling, sigma, x.ndim)
        directions: list[list[Tensor] | None] = [None] * len(self.edits)
        masks: list[Tensor | None] = [None] * len(self.edits)
        for c in self.needed:
            directions[c] = unpack_latents(self.direction(self.prompts[c], x) / gain, self.latent_shapes)
            masks[c] = self.mask(c, x)
        edit = self.advance(directions, masks, x)
        self.predictions.begin(None, [])
        return denoised + (gain * edit).to(denoised.dtype)

    def advance(self, directions: list[list[Tensor] | None], masks: list[Tensor | None], x: Tensor) -> Tensor:
        """The edit for x, in the space of the model's output. The first in each sampler step moves the momentum on.

        The momentum begins anew where a sampler enlarges the latent.
        directions: of each concept, for each part of the latent: the host packs several (video and sound) into one.
        masks: of each concept, for the first part, which is the picture.
        """
        step = self.evaluation.step
        first = step > self.step
        if first:
            self.step, self.nu = step, self.next_nu
        edits, momenta = [], []
        for number, part in enumerate(unpack_latents(x, self.latent_shapes)):
            zero = torch.zeros_like(widen(part))
            of_part = [None if parts is None else parts[number] for parts in directions]
            nu = None if self.nu is None or self.nu[number].shape != part.shape else self.nu[number]
            edit, nu = sega_step(
                zero, of_part, self.edits, nu, step, self.momentum, masks if number == 0 else None
            )
            edits.append(edit)
            momenta.append(nu)
        if first:
            self.next_nu = momenta
        return pack_latents(edits)[0] if len(edits) > 1 else edits[0]

    def direction(self, prompt: Prompt, x: Tensor) -> Tensor:
        """The concept's denoised prediction minus the negative prompt's; zero where either does not act."""
        concept, negative = self.predictions[prompt.conds], self.predictions[prompt.negative]
        difference = widen(concept - negative)
        self.not_finite.append((negative.isfinite() & ~concept.isfinite()).any())
        difference = torch.where(difference.isfinite(), difference, 0)
        for conds in prompt:
            where = covered(conds, x, self.evaluation.cpu_sigma)
            if where is not None:
                difference = torch.where(where, difference, 0)
        return difference

    def mask(self, c: int, x: Tensor) -> Tensor | None:
        """Where a concept may act: its mask, its words, or both."""
        concept, mask, shape = self.concepts[c], self.masks[c], unpack_latents(x, self.latent_shapes)[0].shape
        if mask is None or mask.shape[2:] != shape[2:]:
            mask = self.masks[c] = concept.mask_for(shape, x.device, NODE)
        if not concept.confine_to:
            return mask
        seen = self.words.mask(concept, self.prompts[c].conds, x, self.evaluation.cpu_sigma)
        return seen if mask is None else mask * seen


def output_gain(model_sampling: Any, sigma: Tensor, ndim: int) -> Tensor:
    """How much `denoised` changes with the model's own prediction: -sigma for epsilon and velocity, less for v.

    Every parameterisation's calculate_denoised is linear in the model's output, so its value for an output of 1 and
    an input of 0 is this factor. sigma: [B]. Returns [B, 1, ..., 1].
    """
    sigma = widen(sigma)
    ones = sigma.new_ones([sigma.shape[0]] + [1] * (ndim - 1))
    return model_sampling.calculate_denoised(sigma, ones, torch.zeros_like(ones))


def patch_sega(model: ModelPatcher, concepts: tuple[Concept, ...], momentum: Momentum) -> ModelPatcher:
    """A clone of `model` that samples with these edits."""
    layers = word_layers(model, concepts, NODE)
    if model.is_dynamic() and any(cond_has_hooks(concept.conditioning) for concept in concepts):
        model = model.get_non_dynamic_delegate()  # as the host's guiders do for their prompts
    else:
        model = model.clone()
    if all(concept.edit.edit_scale == 0 or concept.edit.weight <= 0 for concept in concepts):
        return model
    key = add_guidance(
        model, lambda guider, sigmas: SEGARun(guider, sigmas, concepts, momentum, layers), NODE
    )

    def prepare_sampling(executor, patcher, noise_shape, conds, *args, model_options, **kwargs):
        run = current_run(model_options, key)
        every = conds if run is None else {**conds, **run.conds}
        base, _, loaded = executor(patcher, noise_shape, every, *args, model_options=model_options, **kwargs)
        return base, conds, loaded

    def sampler_sample(executor, guider, sigmas, extra_args, *args, **kwargs):
        run = current_run(extra_args["model_options"], key)
        try:
            return executor(guider, sigmas, extra_args, *args, **kwargs)
        finally:
            if run is not None:
                cleanup_models({number: prompt.conds for number, prompt in enumerate(run.prompts)}, [])

    def calc_batch(executor, base, conds, x, sigma, model_options):
        run = current_run(model_options, key)
        if run is None:
            return executor(base, conds, x, sigma, model_options)
        return run.predictions.join(executor, base, conds, x, sigma, model_options)

    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, PREFIX, prepare_sampling)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, PREFIX, sampler_sample)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, PREFIX, calc_batch)
    return model
