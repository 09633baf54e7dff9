"""Attend-and-Excite in the host: the sampler's own latent, moved at each step before the noise is predicted."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from comfy.patcher_extension import WrappersMP
from comfy.utils import ProgressBar
from torch import Tensor

from ...attention_hooks.families import Family, Layer, layers_at, model_family, model_layers
from ...guidance.attend_excite import Excitation, Step, excite, schedule
from ...words.phrases import check_phrases
from ..conds import active_conds
from ..percent import percent_at
from ..record import fingerprint
from ..run import PREFIX, Evaluation, Run, add_run, current_run
from .frozen_layers import check_differentiable
from .gradient import AttentionGradient
from .step_latent import StepLatent, follow_steps
from .subjects import Subjects
from .trace import AttentionRecord, Trace, TraceStep

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

log = logging.getLogger(__name__)
NODE = "Attend-and-Excite"
PAPERS_GRID = 16


class Settings(NamedTuple):
    words: tuple[str, ...]
    excitation: Excitation = Excitation()
    downsample: int | None = None  # of the grid read


class AttendExciteRun(Run):
    """One sampling run; hands what it saw to `record` when it ends well."""

    def __init__(
        self, guider: CFGGuider, sigmas: Tensor, family: Family, layers: list[Layer], settings: Settings,
        record: AttentionRecord,
    ):
        conds = guider.conds.get("positive", [])
        check_phrases([(cond.get("cross_attn"), cond) for cond in conds], list(settings.words), NODE)
        model = guider.model_patcher
        self.plan = plan_steps(settings.excitation, model.get_model_object("model_sampling"), sigmas)
        self.family = family
        self.total = len(sigmas) - 1
        self.layers = layers
        self.settings = settings
        self.record = record
        self.latent: StepLatent | None = None
        self.gradient: AttentionGradient | None = None
        self.steps: list[TraceStep] = []

    def see(self, latent: StepLatent | None) -> None:
        """The next call of the model is a step's first, with its latent, or another one (None)."""
        self.latent = latent

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        """Move the step's latent in place, and with it x: that latent, or its blend with an inpainted original."""
        latent, self.latent = self.latent, None
        if latent is None or latent.step not in self.plan:
            return
        x, timestep = evaluation.x, evaluation.sigma
        sigma = evaluation.sigma_value
        conds, options = guider.conds["positive"], latent.model_options
        windows = options.get("context_handler")
        if windows is not None and windows.should_use_context(guider.inner_model, [conds], x, timestep, options):
            raise ValueError(f"{NODE}: context windows are not supported. Sample all images of the batch at once.")
        subjects = Subjects(active_conds(conds, x, timestep), self.settings.words, self.family.until_eot)
        if not subjects.active:
            return
        downsample, layers = layers_for(self.layers, self.settings.downsample, tuple(x.shape[-2:]))
        self.gradient = gradient_of = self.gradient or AttentionGradient(NODE, self.family, layers)
        excitation = self.settings.excitation
        progress = _Progress(latent.step, self.total, excitation.max_refinements)
        start, x_start = latent.x.clone(), x.clone()

        def blend(moved: Tensor) -> Tensor:
            delta = moved - start
            return x_start + (delta if latent.mask is None else latent.mask * delta)

        def evaluate(moved: Tensor) -> tuple[Tensor, Tensor]:
            progress.advance()
            gradient = gradient_of(
                guider.inner_model, subjects.active, blend(moved), timestep, options, subjects.loss
            )
            return subjects.peaks, gradient if latent.mask is None else latent.mask * gradient

        result = excite(start, sigma, self.plan[latent.step], excitation, evaluate)
        x.copy_(blend(result.x))
        latent.x.copy_(result.x)
        peaks = result.peaks.cpu().masked_fill(~subjects.present(), torch.nan)
        self.steps.append(
            TraceStep(
                latent.step, sigma, peaks[0], peaks[-1], result.refinements.cpu(), result.sizes.amax(0).cpu(),
                subjects.picture((-(-x.shape[-2] // downsample), -(-x.shape[-1] // downsample))),
            )
        )

    def finish(self, samples: Tensor) -> None:
        targets = tuple((i, 1 - step.target) for i, step in self.plan.items() if step.target is not None)
        trace = Trace(self.settings.words, tuple(self.steps), self.total, targets, fingerprint(samples))
        log.info("%s: %s", NODE, trace.summary())
        if len(self.steps) < len(self.plan):
            log.warning(
                "%s: the latent was moved at %d of %d steps. At the others no prompt with these words acts, or the "
                "sampler called the model at sigmas of its own.", NODE, len(self.steps), len(self.plan),
            )
        self.record.add(trace)


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


def plan_steps(excitation: Excitation, model_sampling: Any, sigmas: Tensor) -> dict[int, Step]:
    """The steps of this run that move the latent.

    The paper's shares are of all steps from pure noise to the image. A run that starts or stops between (image to
    image, advanced samplers) is taken for that part of a longer one.
    """
    steps = len(sigmas) - 1
    first, last = (percent_at(model_sampling, float(sigma)) for sigma in (sigmas[0], sigmas[-1]))
    if first * steps <= 1:  # schedulers may begin one step below the most noise
        first = 0.0
    total = max(steps, round(steps / max(last - first, 1e-3)))
    offset = round(first * total)
    return dict(enumerate(schedule(excitation, total)[offset : offset + steps]))


def layers_for(layers: list[Layer], downsample: int | None, latent: tuple[int, int]) -> tuple[int, list[Layer]]:
    """The layers whose attention is averaged, and how much coarser than the latent [H, W] their grid is.

    downsample None: the grid whose number of positions is nearest to 16x16. The middle block alone, as it is for SD 1.x
    at the coarsest grid, is not among the paper's layers and is chosen only where there is nothing else.
    """
    outside = [layer for layer in layers if layer.block[0] != "middle"]
    present = sorted({layer.downsample for layer in outside or layers})
    if downsample is None:
        positions = {d: math.prod(-(-size // d) for size in latent) for d in present}
        downsample = min(present, key=lambda d: abs(math.log(positions[d] / PAPERS_GRID**2)))
    return downsample, [layer for layer in layers if layer.downsample == downsample]


def patch_attend_excite(model: ModelPatcher, settings: Settings) -> tuple[ModelPatcher, AttentionRecord]:
    """A clone of `model` that samples with Attend-and-Excite, and the record of what its runs will do.

    Raises ValueError for models without known attention layers or without gradients, and for a grid they lack.
    """
    family, layers = model_family(model, NODE), model_layers(model, NODE)
    record = AttentionRecord()
    if not schedule(settings.excitation, 1000):
        return model, record
    check_differentiable(model.model, NODE)
    layers_at(family, layers, settings.downsample)

    model = model.clone()
    key = add_run(model, lambda guider, sigmas: AttendExciteRun(guider, sigmas, family, layers, settings, record))

    def outer_sample(executor, noise, latent_image, sampler, *args, **kwargs):
        run = current_run(executor.class_obj.model_options, key)
        if run.plan:
            sampler = follow_steps(NODE, sampler, run.see)
        return executor(noise, latent_image, sampler, *args, **kwargs)

    def prepare_sampling(executor, model, noise_shape, *args, **kwargs):
        return executor(model, [2 * noise_shape[0], *noise_shape[1:]], *args, **kwargs)  # room for the gradient

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, PREFIX, outer_sample)
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, PREFIX, prepare_sampling)
    return model, record
