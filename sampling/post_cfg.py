"""Guidance as one of the host's post-CFG functions, and whether what it gives reaches the sampler."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .run import PREFIX, Run, add_run, current_run

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

log = logging.getLogger(__name__)


class Guidance(Run):
    """A run that changes the denoised prediction of each evaluation."""

    outcome: Outcome  # add_guidance sets it

    def guide(self, args: dict[str, Any]) -> Tensor:
        """The host's post-CFG function: args["denoised"] [B, C, ...] -> what it becomes; itself where it stays."""
        raise NotImplementedError


class Outcome:
    """What became of a run's guidance. Its numbers stay on the device, which waits for none until the run ends."""

    def __init__(self, node: str, guider: CFGGuider):
        self._node = node
        self._guider = type(guider).__name__
        self._evaluations = 0
        self._calls = 0
        self._later: list[Callable] | None = None  # the functions after this one; None before it changes anything
        self._used = False  # whether anything was ever made of a prediction that it changed
        self._finite: list[tuple[str, Tensor]] = []  # whether values are, at each place in turn

    def begin_evaluation(self, x: Tensor) -> None:
        self._evaluations += 1
        self._note_finite("the sampler", x)

    def hand_on(self, denoised: Tensor, guided: Tensor, later: list[Callable]) -> Tensor:
        """`guided` is what `denoised` has become; `later` are the post-CFG functions that get it."""
        self._calls += 1
        with torch._C.DisableTorchFunctionSubclass():  # these looks are no use
            self._note_finite("the model, or a node connected before this one", denoised)
            self._note_finite(f"{self._node} itself", guided)
        if guided is denoised or self._used:
            return guided
        self._later = later
        return watched(guided, self._note_use)

    def end_evaluation(self, result: Tensor) -> Tensor:
        """What the guider gives to the sampler, as a plain tensor."""
        if type(result) is not Tensor:
            self._note_use()
            result = result.as_subclass(Tensor)
        self._note_finite(f"the guider ({self._guider}), or a node connected after this one", result)
        return result

    def tell(self, samples: Tensor) -> None:
        """Warn where the guidance had no effect, and where the latent that the run returns is not made of numbers."""
        if self._evaluations and not self._calls:
            log.warning(
                "%s: this node had no effect. The guider (%s), or a node connected after this one, leaves out what "
                "this one does after CFG. Connect this node after that one, or use KSampler or CFG Guider.",
                self._node, self._guider,
            )
        if self._later is not None and not self._used:
            names = ", ".join(dict.fromkeys(map(name_of, self._later))) or self._guider
            log.warning(
                "%s: this node had no effect. %s puts a result of its own in the place of this node's. Connect this "
                "node after it.", self._node, names,
            )
        if not samples.isfinite().all():
            finite = torch.stack([flag for _, flag in self._finite]).tolist() if self._finite else []
            places = [place for (place, _), ok in zip(self._finite, finite, strict=True) if not ok]
            log.warning(
                "%s: the latent of this run has values that are not numbers (NaN). The first came from %s.",
                self._node, places[0] if places else "the sampler",
            )

    def _note_use(self) -> None:
        self._used = True

    def _note_finite(self, place: str, values: Tensor) -> None:
        self._finite.append((place, values.isfinite().all()))


def check_compared(node: str, guider: str, args: dict[str, Any]) -> None:
    """Raise ValueError where a guider gives a post-CFG function no prompt to compare the other with."""
    for name, conds in (("positive", args["cond"]), ("negative", args["uncond"])):
        if not conds:
            raise ValueError(f"{node}: {guider} compares no {name} prompt. Use KSampler or CFGGuider.")


def watched(values: Tensor, on_use: Callable[[], None]) -> Tensor:
    """`values`, which call `on_use` when something is computed from them. Results are plain tensors."""

    class Watched(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                result = function(*args, **(kwargs or {}))
            if function.__name__ != "__get__" or isinstance(result, Tensor):  # not a mere look at shape or device
                on_use()
            return result

    return values.as_subclass(Watched)


def name_of(function: Callable) -> str:
    """What to call a function of another node: mostly the class of the node that made it."""
    return getattr(function, "__qualname__", type(function).__name__).split(".")[0]


def add_guidance(model: ModelPatcher, make_run: Callable[[CFGGuider, Tensor], Guidance], node: str) -> str:
    """Let `model` (a clone) be guided by a run of make_run, after CFG. Returns the run's key, as add_run does.

    After a run it is said where the guidance did not reach the sampler, and where NaN came from.
    """
    key = add_run(model, make_run)

    def outer_sample(executor, *args, **kwargs):
        guider = executor.class_obj
        outcome = current_run(guider.model_options, key).outcome = Outcome(node, guider)
        samples = executor(*args, **kwargs)
        outcome.tell(samples)
        return samples

    def predict_noise(executor, x, timestep, model_options, *args, **kwargs):
        run = current_run(model_options, key)
        if run is None:
            return executor(x, timestep, model_options, *args, **kwargs)
        run.outcome.begin_evaluation(x)
        return run.outcome.end_evaluation(executor(x, timestep, model_options, *args, **kwargs))

    def post_cfg(args: dict[str, Any]) -> Tensor:
        run = current_run(args["model_options"], key)
        if run is None:
            raise ValueError(f"{node}: this sampler does not use the host's guider, without which it cannot act.")
        functions = args["model_options"].get("sampler_post_cfg_function", [])
        later = functions[functions.index(post_cfg) + 1 :] if post_cfg in functions else []
        return run.outcome.hand_on(args["denoised"], run.guide(args), later)

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, PREFIX, outer_sample)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, PREFIX, predict_noise)
    model.set_model_sampler_post_cfg_function(post_cfg)
    return key
