"""Guidance Meter in the host: what the sampler gets in the end, against the two predictions that CFG compares."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...attention_hooks.observe import Call
from ...guidance.meter import effective_scale, norm_ratio
from ...guidance.precision import widen
from ..processing import Processing
from ..record import fingerprint
from ..run import PREFIX, Evaluation, Run, add_run, current_run, step_number
from ..word_regions import WordRegions, check_readable
from .record import NOTHING_ALIKE, NOTHING_AT_CFG_1, Measured, MeterRecord, MeterStep

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

log = logging.getLogger(__name__)
NODE = "Guidance Meter"


class _Compared(NamedTuple):
    """What CFG compared in one evaluation."""

    cond: Tensor
    uncond: Tensor | None
    regions: Tensor  # [B, 1 + words, *size]: the picture, then each word


class _Seen(NamedTuple):
    """One evaluation, on the device."""

    sigma: Tensor  # []
    scale: Tensor  # [B, 1 + words]
    ratio: Tensor


class MeterRun(Run):
    """One sampling run; hands what it measured to `record` when it ends well."""

    node = NODE

    def __init__(self, guider: CFGGuider, words: tuple[str, ...], downsample: int | None, record: MeterRecord):
        self.names = words
        self.words = WordRegions(NODE, guider, words, downsample) if words else None
        self.record = record
        self.guider = type(guider).__name__
        self.x: Tensor | None = None
        self.predictions: dict[int, Tensor] = {}  # of this evaluation, by the id of a list of conds
        self.compared: _Compared | None = None
        self.seen: list[_Seen] = []
        self.cfg_scale = 1.0
        self.guided = False  # whether there ever was an uncond

    def reads_attention(self, evaluation: Evaluation) -> bool:
        return self.words is not None

    def begin_run(self, processing: Processing) -> None:
        kept = processing.guider.model_options["transformer_options"].values()
        self.others = [run for run in kept if isinstance(run, Run)]
        if self.words is not None:
            if len(self.latent_shapes) > 1:
                raise ValueError(f"{NODE}: words have no place in a latent of several parts, such as video with sound. "
                                 "Leave them out.")
            self.words.begin_run(processing.guider)

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.x, self.predictions, self.compared = evaluation.x, {}, None
        if self.words is not None:
            self.words.begin(evaluation)

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return transformer_options if self.words is None else self.words.watch_forward(call, transformer_options)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        if self.words is not None:
            self.words.end_forward(call, transformer_options)

    def predicted(self, conds: list, x: Tensor, outputs: list[Tensor]) -> None:
        """The model's own predictions. Nodes may hand others to CFG (APG), or call for more of them later (PAG)."""
        if x is self.x and not self.predictions:
            self.predictions = {id(listed): output for listed, output in zip(conds, outputs, strict=True)}

    def compare(self, args: dict[str, Any]) -> None:
        """Take from a post-CFG function's arguments what is the same for all of them, wherever they stand."""
        x = args["input"]
        regions = widen(x).new_ones((x.shape[0], 1, *x.shape[2:]))
        if self.words is not None and args["cond"]:
            regions = torch.cat([regions, self.words.at(args["cond"], x)], dim=1)
        cond, uncond = (
            self.predictions.get(id(args[name]), args[f"{name}_denoised"]) for name in ("cond", "uncond")
        )
        self.compared = _Compared(cond, None if args["uncond"] is None else uncond, regions)
        self.cfg_scale = float(args["cond_scale"])
        self.guided |= args["uncond"] is not None

    def end_evaluation(self, evaluation: Evaluation, denoised: Tensor) -> None:
        if self.compared is None:
            return
        cond, uncond, self.regions = self.compared
        ratio = norm_ratio(denoised, cond, self.regions)
        scale = torch.full_like(ratio, torch.nan) if uncond is None else effective_scale(
            denoised, cond, uncond, self.regions)
        self.seen.append(_Seen(evaluation.sigma.flatten()[0], scale, ratio))
        self.predictions, self.compared = {}, None

    def finish(self, samples: Tensor) -> None:
        if not self.seen:
            self.warn_once(f"{self.guider} does not tell which predictions it compares, so nothing was measured. Use "
                           "KSampler or CFGGuider.")
            return
        steps = self.steps()
        nothing = "" if self.guided else NOTHING_AT_CFG_1
        if not nothing and all(step.scale[:, 0].isnan().all() for step in steps):
            nothing = NOTHING_ALIKE
        regions = self.regions[:, 1:].half().cpu() if self.words is not None else None
        notes = tuple(filter(None, (run.summary() for run in self.others)))
        measured = Measured(self.names, steps, nothing, self.cfg_scale, regions, fingerprint(samples), notes)
        log.info("%s: %s", NODE, measured.summary())
        self.record.add(measured)

    def steps(self) -> tuple[MeterStep, ...]:
        """Of each sigma the last evaluation, of each step the first sigma, the highest: samplers may evaluate twice."""
        sigmas, scales, ratios = (torch.stack(values).float().cpu() for values in zip(*self.seen, strict=True))
        last = {sigma: n for n, sigma in enumerate(sigmas.tolist())}
        steps: dict[int, MeterStep] = {}
        for sigma in sorted(last, reverse=True):
            step = step_number(sigma, self.schedule)
            steps.setdefault(step, MeterStep(step, sigma, scales[last[sigma]], ratios[last[sigma]]))
        return tuple(steps.values())


def patch_meter(
    model: ModelPatcher, words: tuple[str, ...], downsample: int | None
) -> tuple[ModelPatcher, MeterRecord]:
    """A clone of `model` whose runs are measured, and the record of them.

    Raises ValueError where words are named for a model whose attention cannot be read.
    """
    if words:
        check_readable(model, NODE, downsample)
    record = MeterRecord()
    model = model.clone()
    key = add_run(model, lambda guider, sigmas: MeterRun(guider, words, downsample, record))

    def calc_batch(executor, base, conds, x, sigma, model_options):
        outputs = executor(base, conds, x, sigma, model_options)
        run = current_run(model_options, key)
        if run is not None:
            run.predicted(conds, x, outputs)
        return outputs

    def post_cfg(args: dict[str, Any]) -> Tensor:
        run = current_run(args["model_options"], key)
        if run is None:
            raise ValueError(f"{NODE}: this sampler does not use the host's guider, without which it cannot measure.")
        run.compare(args)
        return args["denoised"]

    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, PREFIX, calc_batch)
    model.set_model_sampler_post_cfg_function(post_cfg)
    return model, record
