"""SEGA in the host: the concepts' predictions from the same model call as CFG's, the edit in the post-CFG function."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import cleanup_models, cond_has_hooks, convert_cond, prepare_mask
from comfy.samplers import calc_cond_batch
from torch import Tensor

from ...attention_hooks.families import Layer, model_family
from ...attention_hooks.observe import Call
from ...guidance.precision import widen
from ...guidance.sega import Momentum, needed, sega_step
from ..conds import covered
from ..run import PREFIX, Evaluation, Run, add_run, current_run
from .concepts import Concept, Cond, Prompt, process_prompt, register_hooks
from .confine import ConceptWords, word_layers

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

NODE = "SEGA"


class SEGARun(Run):
    """One sampling run with concepts.

    The first evaluation of each sampler step advances the momentum. Further evaluations of the same step (2S, SDE)
    use the momentum that the step started with. An evaluation at the next step's sigma (Heun) counts as that step's.
    """

    def __init__(
        self, guider: CFGGuider, sigmas: Tensor, concepts: tuple[Concept, ...], momentum: Momentum,
        layers: list[Layer],
    ):
        if "negative" not in guider.conds:
            raise ValueError(
                f"{NODE}: this sampler has no negative prompt, against which edits are measured. Use KSampler or CFG "
                "Guider in place of Basic Guider; cfg may stay at 1."
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
        self.masks: list[Tensor | None] = []
        self.step = -1
        self.nu: Tensor | None = None  # when this step started
        self.next_nu: Tensor | None = None
        self.begin_forward(None)

    def prepare(
        self, guider: CFGGuider, noise: Tensor, latent_image: Tensor, denoise_mask: Tensor | None, seed: int
    ) -> None:
        """Once the host has processed its prompts: process the concepts' prompts and masks for this latent."""
        self.prompts = [
            process_prompt(guider, conds, noise, latent_image, denoise_mask, seed) for conds in self.conds.values()
        ]
        self.masks = [
            None if concept.mask is None else prepare_mask(concept.mask, noise.shape, noise.device)
            for concept in self.concepts
        ]

    def begin_forward(self, x: Tensor | None) -> None:
        """Forget the predictions of the last evaluation and wait for those of `x`."""
        self.x = x
        self.predictions: dict[int, Tensor] = {}  # by the id of a list of conds

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.needed = [c for c, edit in enumerate(self.edits) if needed(edit, evaluation.step, self.momentum)]
        self.begin_forward(evaluation.x)
        if self.words is not None:
            prompts = [(self.concepts[c], self.prompts[c].conds) for c in self.needed]
            self.words.begin_concepts(prompts, evaluation.x.shape[0])

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return transformer_options if self.words is None else self.words.watch_forward(call, transformer_options)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        if self.words is not None:
            self.words.end_forward(call, transformer_options)

    def missing(self, given: list[list[Cond] | None]) -> list[list[Cond]]:
        """The lists of conds that must be evaluated beside those that are."""
        wanted = [conds for c in self.needed for conds in self.prompts[c]]
        known = {*map(id, given), *self.predictions}
        return list({id(conds): conds for conds in wanted if id(conds) not in known}.values())

    def reads_attention(self, evaluation: Evaluation) -> bool:
        return self.words is not None

    def calc_cond_batch(self, executor, model, conds, x: Tensor, sigma: Tensor, model_options) -> list[Tensor]:
        """The host's evaluation of all its prompts, joined by the concepts' where it is the main one for this x.

        Calls for one prompt are other nodes' extra passes (PAG, SAG); those for another x may be context windows,
        whose results the host has yet to put together.
        """
        if x is not self.x or len(conds) < 2 or self.predictions:
            return executor(model, conds, x, sigma, model_options)
        every = [*conds, *self.missing(conds)]
        outputs = executor(model, every, x, sigma, model_options)
        self.predictions = {id(item): output for item, output in zip(every, outputs, strict=True)}
        return outputs[: len(conds)]

    def guide(self, args: dict[str, Any]) -> Tensor:
        """The host's post-CFG function: denoised [B, C, ...] -> denoised with the edit of this step."""
        model, x, sigma, denoised = args["model"], args["input"], args["sigma"], args["denoised"]
        missing = self.missing([])
        if missing:
            self.x = None
            outputs = calc_cond_batch(model, missing, x, sigma, args["model_options"])
            self.predictions |= {id(conds): output for conds, output in zip(missing, outputs, strict=True)}

        if not self.needed and self.next_nu is None:
            return denoised
        gain = output_gain(model.model_sampling, sigma, x.ndim)
        directions: list[Tensor | None] = [None] * len(self.edits)
        masks: list[Tensor | None] = [None] * len(self.edits)
        for c in self.needed:
            directions[c] = self.direction(self.prompts[c], x, sigma) / gain
            masks[c] = self.mask(c, x, sigma)
        step = self.evaluation.step
        first = step > self.step
        if first:
            self.step, self.nu = step, self.next_nu
        zero = torch.zeros_like(widen(denoised))
        edit, nu = sega_step(zero, directions, self.edits, self.nu, step, self.momentum, masks)
        if first:
            self.next_nu = nu
        self.begin_forward(None)
        return denoised + (gain * edit).to(denoised.dtype)

    def direction(self, prompt: Prompt, x: Tensor, sigma: Tensor) -> Tensor:
        """The concept's denoised prediction minus the negative prompt's; zero where either does not act."""
        difference = widen(self.predictions[id(prompt.conds)] - self.predictions[id(prompt.negative)])
        for conds in prompt:
            where = covered(conds, x, sigma)
            if where is not None:
                difference = torch.where(where, difference, 0)
        return difference

    def mask(self, c: int, x: Tensor, sigma: Tensor) -> Tensor | None:
        """Where a concept may act: its mask, its words, or both."""
        mask, concept = self.masks[c], self.concepts[c]
        if not concept.confine_to:
            return mask
        seen = self.words.mask(concept, self.prompts[c].conds, x, sigma)
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
    if all(concept.edit.scale == 0 or concept.edit.weight <= 0 for concept in concepts):
        return model
    key = add_run(model, lambda guider, sigmas: SEGARun(guider, sigmas, concepts, momentum, layers))

    def prepare_sampling(executor, patcher, noise_shape, conds, *args, model_options, **kwargs):
        run = current_run(model_options, key)
        every = conds if run is None else {**conds, **run.conds}
        base, _, loaded = executor(patcher, noise_shape, every, *args, model_options=model_options, **kwargs)
        return base, conds, loaded

    def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args):
        run = current_run(extra_args["model_options"], key)
        if run is None:
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args)
        run.prepare(guider, noise, latent_image, denoise_mask, extra_args["seed"])
        try:
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args)
        finally:
            cleanup_models({number: prompt.conds for number, prompt in enumerate(run.prompts)}, [])

    def calc_batch(executor, base, conds, x, sigma, model_options):
        run = current_run(model_options, key)
        if run is None:
            return executor(base, conds, x, sigma, model_options)
        return run.calc_cond_batch(executor, base, conds, x, sigma, model_options)

    def post_cfg(args: dict[str, Any]) -> Tensor:
        run = current_run(args["model_options"], key)
        if run is None:
            raise ValueError(f"{NODE}: this sampler does not use the host's guider, so concepts cannot be evaluated.")
        return run.guide(args)

    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, PREFIX, prepare_sampling)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, PREFIX, sampler_sample)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, PREFIX, calc_batch)
    model.set_model_sampler_post_cfg_function(post_cfg)
    return model
