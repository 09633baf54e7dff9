"""Guidance Schedule in the host: CFG's own direction with another weight at each moment of sampling."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import prepare_mask
from torch import Tensor

from ...attention_hooks.observe import Call
from ...guidance.schedules import SHAPES, cfgpp_scale, clamped, powered_cosine
from ...words.factors import WordFactor
from ..conds import guidance_direction
from ..percent import Curve, Progress
from ..post_cfg import Guidance, add_guidance, check_compared
from ..processing import Processing
from ..run import PREFIX, Evaluation, SigmaRange
from ..samplers import sampler_name
from ..word_regions import WordRegions, check_readable

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

log = logging.getLogger(__name__)
NODE = "Guidance Schedule"
POWERED_COSINE, WINDOW, CFGPP = "powered cosine", "window", "CFG++"
PRESETS = (*SHAPES, POWERED_COSINE, WINDOW, CFGPP)


class Settings(NamedTuple):
    preset: str = "linear"
    factor: float = 1.0
    words: tuple[WordFactor, ...] = ()  # the whole picture without
    clamp: float = 0.0  # the least weight, 0 for none
    power: float = 1.0  # of the powered cosine
    cfgpp_lambda: float = 0.6
    start_percent: float = 0.0
    end_percent: float = 1.0
    downsample: int | None = None  # of the finest attention grid read
    mask: Tensor | None = None
    curve: Curve | None = None  # in place of the preset


class ScheduleRun(Guidance):
    """One sampling run with a schedule. Weights are CFG scales less 1, so that 0 is no guidance."""

    node = NODE

    def __init__(self, guider: CFGGuider, sigmas: Tensor, settings: Settings):
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        if uses_cfgpp(settings) and (sigmas.diff() > 0).any():
            raise ValueError(f"{NODE}: CFG++ needs sigmas that fall; those of this run rise. Choose another preset.")
        self.settings = settings
        self.factors = [settings.factor if word.factor is None else word.factor for word in settings.words]
        self.range = SigmaRange(guider.model_patcher, settings.start_percent, settings.end_percent)
        self.progress = Progress(model_sampling)
        self.flow = isinstance(model_sampling, CONST)
        phrases = [word.phrase for word in settings.words]
        self.words = WordRegions(NODE, guider, phrases, settings.downsample) if phrases else None
        self.mask: Tensor | None = None
        self.guider = type(guider).__name__

    def reads_attention(self, evaluation: Evaluation) -> bool:
        inside = evaluation.sigma_value in self.range
        return self.words is not None and (inside or self.settings.preset == WINDOW)

    def begin_run(self, processing: Processing) -> None:
        if len(self.latent_shapes) > 1 and (self.words is not None or self.settings.mask is not None):
            raise ValueError(f"{NODE}: words and masks have no place in a latent of several parts, such as video with "
                             "sound. Leave them out.")
        if self.words is not None:
            self.words.begin_run(processing.guider)

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.inside = evaluation.sigma_value in self.range
        if self.words is not None:
            self.words.begin(evaluation, self.reads_attention(evaluation))

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return transformer_options if self.words is None else self.words.watch_forward(call, transformer_options)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        if self.words is not None:
            self.words.end_forward(call, transformer_options)

    def finish(self, samples: Tensor) -> None:
        for phrase in self.words.unseen() if self.words is not None else ():
            self.warn_once(f'the model saw "{phrase}" nowhere, so its factor did nothing.')

    def weight(self, factor: float, constant: float) -> float:
        """The weight at this evaluation, for a factor, in place of the sampler's own `constant` weight."""
        settings, sigma = self.settings, self.evaluation.sigma_value
        if not self.inside:
            return clamped(0.0, settings.clamp) if settings.preset == WINDOW else constant
        if uses_cfgpp(settings):
            step = self.evaluation.step
            sigma, following = self.schedule[step], self.schedule[step + 1]
            if sigma == following:  # a step of no length goes nowhere with any weight
                return constant
            weight = cfgpp_scale(factor * settings.cfgpp_lambda, sigma, following, self.flow) - 1
        else:
            weight = constant * factor * self.shape(self.progress.at(sigma))
        return clamped(weight, settings.clamp) if settings.clamp else weight

    def shape(self, progress: float) -> float:
        settings = self.settings
        if settings.curve is not None:
            return settings.curve.interp(progress)
        if settings.preset == POWERED_COSINE:
            return powered_cosine(progress, settings.power)
        return 1.0 if settings.preset == WINDOW else SHAPES[settings.preset](progress)

    def guide(self, args: dict[str, Any]) -> Tensor:
        """denoised [B, C, *size] with another weight; itself with the same."""
        denoised, constant = args["denoised"], float(args["cond_scale"]) - 1
        if args["uncond"] is None:
            self.warn_once("cfg is 1, so there is no guidance to schedule.")
            return denoised
        check_compared(NODE, self.guider, args)
        changes = [self.weight(factor, constant) - constant for factor in self.factors or [self.settings.factor]]
        if not any(changes):
            return denoised
        direction = guidance_direction(args, self.evaluation.cpu_sigma)
        if direction is None:
            self.warn_once("a prompt is switched off by its timestep range; plain CFG is used meanwhile.")
            return denoised
        if self.words is None and self.settings.mask is None:
            return denoised + changes[0] * direction
        return denoised + self.where(changes, args).to(denoised.dtype) * direction

    def where(self, changes: list[float], args: dict[str, Any]) -> Tensor:
        """The change of the weight at each position, [B, 1 or C, *size]."""
        x = args["input"]
        change: Tensor | float = changes[0]
        if self.words is not None:
            regions = self.words.at(args["cond"], x)
            change = sum(regions[:, n : n + 1] * value for n, value in enumerate(changes))
        if self.settings.mask is not None:
            if self.mask is None:
                self.mask = prepare_mask(self.settings.mask, x.shape, x.device)
            change = self.mask * change
        return change


def uses_cfgpp(settings: Settings) -> bool:
    return settings.preset == CFGPP and settings.curve is None


def patch_schedule(model: ModelPatcher, settings: Settings) -> ModelPatcher:
    """A clone of `model` that samples with this schedule.

    Raises ValueError where words are named for a model whose attention cannot be read.
    """
    if settings.words:
        check_readable(model, NODE, settings.downsample)
    model = model.clone()
    add_guidance(model, lambda guider, sigmas: ScheduleRun(guider, sigmas, settings), NODE)

    def outer_sample(executor, noise, latent_image, sampler, *args, **kwargs):
        name = sampler_name(sampler)
        if name != "euler":
            log.warning(
                "%s: CFG++ is exact with the samplers euler and ddim. With %s the same scales are used, but the result "
                "is not that of CFG++.", NODE, name,
            )
        return executor(noise, latent_image, sampler, *args, **kwargs)

    if uses_cfgpp(settings):
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, PREFIX, outer_sample)
    return model
