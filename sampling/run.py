"""State that lives exactly as long as one sampling run."""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import TORCH_COMPILE_KWARGS
from torch import Tensor

from ..attention_hooks.observe import Call
from .conds import give_copies_own_uuids
from .processing import Processing

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

log = logging.getLogger(__name__)
PREFIX = "semantic_guidance"
OUTERMOST = f"{PREFIX}.outermost"
EXTRA_PASS = f"{PREFIX}.extra_pass"  # marks the options of a model call that no run should watch


class Evaluation:
    """One prediction of the noise for x [B, ...] at sigma [B]. Its number and its step wait for the device if asked."""

    def __init__(self, x: Tensor, sigma: Tensor, schedule: list[float]):
        self.x = x
        self.sigma = sigma
        self._schedule = schedule

    @cached_property
    def sigma_value(self) -> float:
        return float(self.sigma.flatten()[0])

    @cached_property
    def cpu_sigma(self) -> Tensor:
        """sigma on the CPU, [1]: with it the host compares timestep ranges without waiting for the device again."""
        return torch.tensor([self.sigma_value], dtype=self.sigma.dtype)

    @cached_property
    def step(self) -> int:
        """The sampler step, from 0, to which this evaluation belongs."""
        return step_number(self.sigma_value, self._schedule)


class Run:
    """What a node keeps during one sampling run. Made when the run starts, dropped when it ends, however it ends."""

    node = "Semantic Guidance"  # whose messages these are
    schedule: list[float]  # the run's sigmas; add_run sets it, and
    latent_shapes: list[Sequence[int]]  # of the latent's parts; several (video and sound) the host packs into [B, 1, N]
    _warned: frozenset[str] = frozenset()

    def reads_attention(self, evaluation: Evaluation) -> bool:
        """Whether this evaluation's attention is read, for which a compiled model must run as it was written."""
        return True

    def begin_run(self, processing: Processing) -> None:
        """Called once the host has processed the guider's conds, before the first evaluation."""

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        """Called before the host predicts the noise."""

    def change_text(
        self, text: Tensor | None, extra: dict[str, Any], transformer_options: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any], dict[str, Any]]:
        """The text of one call of the model, what else it gets, and its options; of a run that changes_text."""
        return text, extra, transformer_options

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        """The transformer_options for one call of the model, which may evaluate some or all of the conds."""
        return transformer_options

    def edit_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        """Those in which attention is changed, also for calls that no run watches, such as one for a gradient."""
        return transformer_options

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        """Called after that call."""

    def end_evaluation(self, evaluation: Evaluation, denoised: Tensor) -> None:
        """Called with what the guider makes of all that: the prediction that the sampler gets."""

    def finish(self, samples: Tensor) -> None:
        """Called with the latent that the run returns, unless it failed or was interrupted."""

    def summary(self) -> str:
        """What became of this run, in a clause that Guidance Meter tells too; "" where there is nothing to tell."""
        return ""

    def warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned |= {message}
            log.warning("%s: %s", self.node, message)


def add_run(model: ModelPatcher, make_run: Callable[[CFGGuider, Tensor], Run], changes_text: bool = False) -> str:
    """Let `model` (a clone) make a Run from the guider and the sigmas (on the CPU) whenever sampling starts.

    changes_text: it starts before those of other nodes, and so does each evaluation, so that they find the text with
    which the model is called. A model call is shown to all in their order, once it is changed.
    Returns the key under which current_run finds it in the options that the host passes around.
    """
    key = f"{PREFIX}.{uuid.uuid4().hex}"

    def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        before = guider.model_options
        schedule = sigmas.flatten().cpu()
        run = make_run(guider, schedule)
        run.schedule = schedule.tolist()
        run.latent_shapes = kwargs.get("latent_shapes") or [noise.shape]
        guider.model_options = {**before, "transformer_options": {**before.get("transformer_options", {}), key: run}}
        try:
            samples = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            run.finish(samples)
            return samples
        finally:
            guider.model_options = before

    def sampler_sample(
        executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, *args, **kwargs
    ):
        give_copies_own_uuids(guider)
        run = current_run(extra_args["model_options"], key)
        if run is not None:
            seed = extra_args.get("seed")
            run.begin_run(Processing(guider, noise, latent_image, denoise_mask, seed, run.latent_shapes))
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs)

    def predict_noise(executor, x, timestep, model_options, *args, **kwargs):
        run = current_run(model_options, key)
        if run is None:
            return executor(x, timestep, model_options, *args, **kwargs)
        evaluation = Evaluation(x, timestep, run.schedule)
        reads = run.reads_attention(evaluation)
        if reads and TORCH_COMPILE_KWARGS in model_options:
            run.warn_once("the compiled model runs uncompiled in the steps in which its attention is read.")
        with uncompiled() if reads else nullcontext():
            run.begin_evaluation(executor.class_obj, evaluation)
            denoised = executor(x, timestep, model_options, *args, **kwargs)
            run.end_evaluation(evaluation, denoised)
            return denoised

    def change_text(executor, x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs):
        run = transformer_options.get(key)
        if run is not None:
            c_crossattn, kwargs, transformer_options = run.change_text(c_crossattn, kwargs, transformer_options)
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs)

    def apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs):
        run = transformer_options.get(key)
        if run is None:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs)
        call = Call.of(x, c_crossattn, kwargs, transformer_options)
        extra = EXTRA_PASS in transformer_options
        options = transformer_options if extra else run.watch_forward(call, transformer_options)
        output = executor(x, t, c_concat, c_crossattn, control, run.edit_forward(call, options), *args, **kwargs)
        if not extra:
            run.end_forward(call, transformer_options)
        return output

    if changes_text:
        add_outermost(model, WrappersMP.APPLY_MODEL, change_text)
    for kind, wrapper in ((WrappersMP.OUTER_SAMPLE, outer_sample), (WrappersMP.PREDICT_NOISE, predict_noise)):
        if changes_text:
            add_outermost(model, kind, wrapper)
        else:
            model.add_wrapper_with_key(kind, PREFIX, wrapper)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, PREFIX, sampler_sample)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, PREFIX, apply_model)
    return key


def add_outermost(model: ModelPatcher, kind: str, wrapper: Callable) -> None:
    """Let `wrapper` be called before those that `model` (a clone) has or gets, whichever nodes they come from."""
    others = {key: wrappers for key, wrappers in model.wrappers.get(kind, {}).items() if key != OUTERMOST}
    own = model.wrappers.get(kind, {}).get(OUTERMOST, [])
    model.wrappers[kind] = {OUTERMOST: [wrapper, *own], **others}


def without_runs(model: ModelPatcher) -> ModelPatcher:
    """A clone of `model` on which no node of this pack acts."""
    model = model.clone()
    for kind in list(model.wrappers):
        for key in (PREFIX, OUTERMOST):
            model.remove_wrappers_with_key(kind, key)
    return model


def uncompiled() -> AbstractContextManager:
    """Let compiled models run as they were written.

    A compiled model repeats the attention calls of its first trace, whether or not they are to be watched now: the
    host compiles without the guards on transformer_options that would notice.
    """
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):  # PyTorch 2.6
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def current_run(model_options: dict[str, Any], key: str) -> Any:
    """The Run in progress; None where a node samples without a guider, so that no run was started."""
    return model_options.get("transformer_options", {}).get(key)


class SigmaRange:
    """A percent range as the host's own nodes mean it, both ends included."""

    def __init__(self, model: ModelPatcher, start_percent: float, end_percent: float):
        model_sampling = model.get_model_object("model_sampling")
        self.start = _float32(float(model_sampling.percent_to_sigma(start_percent)))
        self.end = _float32(float(model_sampling.percent_to_sigma(end_percent)))

    def __contains__(self, sigma: float) -> bool:
        return self.end <= _float32(sigma) <= self.start


def _float32(value: float) -> float:
    return float(np.float32(value))


def step_number(sigma: float, schedule: list[float]) -> int:
    """The sampler step, from 0, to which an evaluation at `sigma` belongs, given the run's sigmas, highest first."""
    reached = sum(value * (1 + 1e-5) >= sigma for value in schedule)
    return min(max(reached - 1, 0), max(len(schedule) - 2, 0))
