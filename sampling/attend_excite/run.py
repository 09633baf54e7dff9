"""Attend-and-Excite in the host: the sampler's own latent, moved at each step before the noise is predicted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from comfy.patcher_extension import WrappersMP
from comfy.utils import ProgressBar
from torch import Tensor

from ...attention_hooks.families import FAMILIES, Family, layers_at, layers_near, model_family, model_layers
from ...attention_hooks.layouts import Layer
from ...guidance.attend_excite import Excitation, Excited, Seen, Step, excite, schedule
from ...words.phrases import check_phrases
from ..attention_record import AttentionRecord
from ..conds import active_conds
from ..percent import percent_at
from ..record import fingerprint
from ..run import PREFIX, Evaluation, Run, add_run, current_run
from .frozen_layers import check_differentiable
from .gradient import AttentionGradient
from .losses import AttentionLoss, Term, terms_for, words_of
from .neighbours import columns_per_token
from .plan import NODE, levels, plan_steps
from .step_latent import StepLatent, follow_steps
from .subjects import Subjects, SubjectTokens, subject_tokens
from .time_travel import TimeTravel, Travel
from .trace import Trace, TraceStep, merged

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider, Sampler

log = logging.getLogger(__name__)


class Settings(NamedTuple):
    words: tuple[str, ...]  # that must not be left out
    excitation: Excitation = Excitation()
    downsample: int | None = None  # of the grid read
    losses: tuple[AttentionLoss, ...] = ()  # beside the paper's
    travel: Travel = Travel()

    @property
    def all_losses(self) -> tuple[AttentionLoss, ...]:
        papers = AttentionLoss("missing subject", self.words)
        return (papers, *self.losses) if self.words or not self.losses else self.losses


class AttendExciteRun(Run):
    """One sampling run; hands what it saw to `record` when it ends well."""

    node = NODE

    def __init__(
        self, guider: CFGGuider, sigmas: Tensor, family: Family, layers: list[Layer], settings: Settings,
        record: AttentionRecord,
    ):
        conds = guider.conds.get("positive", [])
        self.losses = settings.all_losses
        self.words = words_of(self.losses)
        check_phrases([(cond.get("cross_attn"), cond) for cond in conds], list(self.words), NODE)
        self.guider = type(guider).__name__
        self.family = family
        self.sigmas = sigmas
        self.plan: dict[int, Step] = {}
        self.total = len(sigmas) - 1
        self.layers = layers
        self.settings = settings
        self.record = record
        self.latent: StepLatent | None = None
        self.gradient: AttentionGradient | None = None
        self.steps: list[TraceStep] = []
        self.tokens: dict[Any, SubjectTokens | None] = {}  # of the conds, by uuid
        self.terms: list[Term] | None = None  # the losses on this run's latent
        self.noise: Tensor | None = None  # [B], the norm of the noise last predicted, for Polyak's step

    def follow(self, guider: CFGGuider, latent_image: Tensor, sampler: Sampler) -> Sampler:
        """The sampler for this run of the guider: one that shows this run its latent, if any step is to move it."""
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        self.plan = plan_steps(self.settings.excitation, model_sampling, self.sigmas, empty=not latent_image.any())
        self.levels = levels(model_sampling, self.sigmas)
        self.noise_scaling = model_sampling.noise_scaling
        travel = None
        if self.settings.travel.times > 1:
            progress = [percent_at(model_sampling, sigma) for sigma in self.sigmas.tolist()]
            travel = TimeTravel(self.settings.travel, self.levels, progress)
        return follow_steps(NODE, sampler, self.plan, self.see, travel) if self.plan else sampler

    def see(self, latent: StepLatent | None) -> None:
        """The next call of the model is a step's first, with its latent, or another one (None)."""
        self.latent = latent

    def reads_attention(self, evaluation: Evaluation) -> bool:
        return False  # only its own calls of the model do

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        """Move the step's latent in place, and with it x: that latent, or its blend with an inpainted original."""
        latent, self.latent = self.latent, None
        if latent is None:
            return
        x, timestep = evaluation.x, evaluation.sigma
        conds, options = guider.conds["positive"], latent.model_options
        windows = options.get("context_handler")
        if windows is not None and windows.should_use_context(guider.inner_model, [conds], x, timestep, options):
            raise ValueError(f"{NODE}: context windows are not supported. Sample all images of the batch at once.")
        evaluation.sigma_value = latent.sigma
        active = active_conds(conds, x, evaluation.cpu_sigma)
        for item in active:
            if item.uuid not in self.tokens:
                per_token = columns_per_token(options)
                self.tokens[item.uuid] = subject_tokens(item.cond, self.words, self.family, per_token)
        finest, size = self.settings.downsample, tuple(x.shape[-2:])
        downsample, layers = layers_near(self.family, self.layers, finest, size, NODE)
        excitation, grid = self.settings.excitation, (-(-x.shape[-2] // downsample), -(-x.shape[-1] // downsample))
        if self.terms is None:
            pixels = guider.model_patcher.get_model_object("latent_format").spacial_downscale_ratio
            self.terms = terms_for(self.losses, x, pixels)
        subjects = Subjects(active, self.tokens, len(self.words), self.terms, grid, excitation.enough)
        if not subjects.active:
            return
        dtype = guider.inner_model.get_dtype_inference()
        self.gradient = gradient_of = self.gradient or AttentionGradient(NODE, self.family, layers, dtype)
        progress = _Progress(latent.step, self.total, excitation.max_refinements)
        start, x_start = latent.x.clone(), x.clone()

        def blend(moved: Tensor) -> Tensor:
            delta = moved - start
            return x_start + (delta if latent.mask is None else latent.mask * delta)

        def evaluate(moved: Tensor) -> Seen:
            progress.advance()
            gradient = gradient_of(guider.inner_model, subjects, blend(moved), timestep, options)
            gradient = gradient if latent.mask is None else latent.mask * gradient
            return Seen(subjects.peaks, subjects.neglect, subjects.values, gradient)

        image, noise = self.levels[latent.step]
        how = (noise**2 + image**2, self.plan[latent.step], excitation, evaluate, self.noise_norms(x))
        result = excite(start, *how)
        while not _is_finite(result):
            if not gradient_of.scale_down():
                raise ValueError(self._not_finite(latent, start))
            result = excite(start, *how)
        x.copy_(blend(result.x))
        latent.x.copy_(result.x)
        peaks = result.peaks.masked_fill(~subjects.present(), torch.nan)
        done = TraceStep(
            latent.step, peaks[0], peaks[-1], result.refinements, result.sizes.amax(0), subjects.picture(),
            result.values[0], result.values[-1],
        )
        if self.steps and self.steps[-1].step == done.step:  # taken again
            done = merged(self.steps.pop(), done)
        self.steps.append(done)

    def noise_norms(self, x: Tensor) -> Tensor | None:
        """[B], for Polyak's step: of the noise last predicted, and before that of noise as it is drawn."""
        if self.settings.excitation.polyak is None:
            return None
        if self.noise is None or len(self.noise) != len(x):
            return x.new_full((len(x),), x[0].numel() ** 0.5)
        return self.noise

    def end_evaluation(self, evaluation: Evaluation, denoised: Tensor) -> None:
        if self.settings.excitation.polyak is None:
            return
        one = torch.ones_like(evaluation.x[:, :1])
        image = self.noise_scaling(evaluation.sigma, torch.zeros_like(one), one)
        noise = self.noise_scaling(evaluation.sigma, one, torch.zeros_like(one))
        self.noise = ((evaluation.x - image * denoised) / noise).flatten(1).norm(dim=1)

    def _not_finite(self, latent: StepLatent, start: Tensor) -> str:
        where = f"{NODE}: at step {latent.step + 1} of {self.total} (sigma {latent.sigma:.4g})"
        if not start.isfinite().all():
            return (
                f"{where} the latent holds values that are not finite, before this node has moved it: the sampler, the "
                f"guider ({self.guider}) or another node on the model has made them. Leave it out, or sample without "
                "this node to see whose they are."
            )
        return (
            f"{where} the attention, or its gradient, is not finite. Load the model in bf16 or fp32 if it is in fp16, "
            "and leave out other nodes that change its attention."
        )

    def finish(self, samples: Tensor) -> None:
        steps = [step for step in (step.cpu() for step in self.steps) if not step.before.isnan().all()]
        if steps and not samples.isfinite().all():
            raise ValueError(
                f"{NODE}: the sampled latent holds values that are not finite, though all were when this node moved "
                f"it: the sampler, the guider ({self.guider}) or another node on the model does not go with it."
            )
        targets = tuple((i, 1 - step.target) for i, step in self.plan.items() if step.target is not None)
        names = tuple(loss.name for loss in self.losses) if self.settings.losses else ()
        trace = Trace(self.words, tuple(steps), self.total, targets, fingerprint(samples), names)
        log.info("%s: %s", NODE, trace.summary())
        if len(steps) < len(self.plan):
            self.warn_once(
                f"the latent was moved at {len(steps)} of {len(self.plan)} steps. At the others no prompt with these "
                "words acts, a cache spared the step, or the sampler called the model at sigmas of its own."
            )
        self.record.add(trace)


def _is_finite(result: Excited) -> bool:
    """The one look at a step's outcome. Whatever is not finite reaches the last latent, or what came before it."""
    return bool(result.x.isfinite().all() & result.peaks.isfinite().all() & result.values.isfinite().all())


class _Progress:
    """Lets the host's progress bar move during refinements: one unit for each, within the sampler's step."""

    def __init__(self, step: int, steps: int, refinements: int):
        self._bar = ProgressBar(steps * (1 + refinements))
        self._done = step * (1 + refinements)
        self._evaluations = 0

    def advance(self) -> None:
        if self._evaluations:
            self._bar.update_absolute(self._done + self._evaluations)
        self._evaluations += 1


def patch_attend_excite(model: ModelPatcher, settings: Settings) -> tuple[ModelPatcher, AttentionRecord]:
    """A clone of `model` that samples with Attend-and-Excite, and the record of what its runs will do.

    Raises ValueError, with the reason, for models whose attention cannot be read or has no gradient, and for a grid
    that they lack.
    """
    family, layers = model_family(model, NODE), model_layers(model, NODE)
    record = AttentionRecord(NODE, "scale_factor and active_share above 0")
    if not schedule(settings.excitation, 1000):
        return model, record
    if family.gradient is not None:
        able = ", ".join(row.name for row in FAMILIES if row.gradient is None)
        raise ValueError(
            f"{NODE}: needs gradients, which {family.name} ({type(model.model).__name__}) does not give: "
            f"{family.gradient}. Use a model of {able}."
        )
    check_differentiable(model.model, NODE)
    layers_at(family, layers, settings.downsample, NODE)

    model = model.clone()
    key = add_run(model, lambda guider, sigmas: AttendExciteRun(guider, sigmas, family, layers, settings, record))

    def outer_sample(executor, noise, latent_image, sampler, *args, **kwargs):
        guider = executor.class_obj
        run = current_run(guider.model_options, key)
        return executor(noise, latent_image, run.follow(guider, latent_image, sampler), *args, **kwargs)

    def prepare_sampling(executor, model, noise_shape, *args, **kwargs):
        return executor(model, [2 * noise_shape[0], *noise_shape[1:]], *args, **kwargs)  # room for the gradient

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, PREFIX, outer_sample)
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, PREFIX, prepare_sampling)
    return model, record
