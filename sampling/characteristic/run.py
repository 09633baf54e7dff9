"""Characteristic Guidance in the host: a pre-CFG function that looks at both prompts again, at shifted latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_sampling import CONST
from comfy.samplers import calc_cond_batch
from torch import Tensor

from ...guidance.characteristic import Basis, regularization_at, solve, tolerance_length
from ..conds import guidance_direction
from ..run import EXTRA_PASS, Evaluation, Run, SigmaRange, add_run, current_run

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

NODE = "Characteristic Guidance"
FIRST_PERCENT = 0.02  # where the regularization is largest; a flow model's latent has no signal at 0


class Settings(NamedTuple):
    iterations: int = 5
    regularization: float = 1.0
    tolerance: float = 1e-3
    start_percent: float = 0.0
    end_percent: float = 1.0


class CharacteristicRun(Run):
    """One sampling run with Characteristic Guidance."""

    node = NODE

    def __init__(self, guider: CFGGuider, settings: Settings):
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        self.settings = settings
        self.range = SigmaRange(guider.model_patcher, settings.start_percent, settings.end_percent)
        self.flow = isinstance(model_sampling, CONST)
        self.first = self.signal_to_noise(float(model_sampling.percent_to_sigma(FIRST_PERCENT)))
        self.guider = type(guider).__name__
        self.asked = self.wanted = self.converged = self.iterations = 0

    def reads_attention(self, evaluation: Evaluation) -> bool:
        return False

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.evaluation = evaluation

    def signal(self, sigma: float) -> float:
        return 1 - sigma if self.flow else 1.0

    def signal_to_noise(self, sigma: float) -> float:
        return self.signal(sigma) / sigma

    def guide(self, args: dict[str, Any]) -> list[Tensor]:
        """The host's pre-CFG function: both predictions, cond as CFG must get it. Themselves where none converges."""
        self.asked += 1
        outs, conds, scale = args["conds_out"], args["conds"], float(args["cond_scale"])
        if conds[1] is None:
            self.warn_once("cfg is 1, so there is nothing to correct.")
            return outs
        sigma = self.evaluation.sigma_value
        if not self.settings.iterations or scale == 1 or sigma not in self.range:
            return outs
        direction = self.direction(args, outs)
        if direction is None:
            self.warn_once("a prompt is switched off by its timestep range; plain CFG is used meanwhile.")
            return outs
        guided, converged = self.corrected(args, direction, scale, sigma)
        cond, uncond, *others = outs
        # CFG of these two gives `guided`, and uncond stays comparable for other nodes.
        corrected = uncond + (guided - uncond) / scale
        return [torch.where(converged.view(-1, *[1] * (cond.ndim - 1)), corrected, cond), uncond, *others]

    def direction(self, args: dict[str, Any], outs: list[Tensor]) -> Tensor | None:
        """cond - uncond [B, C, *size], where both prompts act."""
        conds = {"cond": args["conds"][0], "uncond": args["conds"][1], "input": args["input"]}
        predictions = {"cond_denoised": outs[0], "uncond_denoised": outs[1]}
        return guidance_direction({**conds, **predictions}, self.evaluation.cpu_sigma)

    def corrected(
        self, args: dict[str, Any], direction: Tensor, scale: float, sigma: float
    ) -> tuple[Tensor, Tensor]:
        """The guided prediction at the fixed point [B, C, *size], and of which images it was found, bool [B]."""
        x, settings, signal = args["input"], self.settings, self.signal(sigma)
        basis = Basis(direction)
        ridge = 1 + regularization_at(settings.regularization, self.signal_to_noise(sigma), self.first)
        tolerance = tolerance_length(settings.tolerance, signal, sigma, x[0].numel())
        guided = torch.zeros_like(x)

        def projected(direction: Tensor, parts: Tensor) -> Tensor:
            """P[delta + signal * (D_c - D_u)], which is P[noise * (eps_u - eps_c)], on the CPU."""
            return (parts + signal * basis.parts(direction).double().cpu()) / ridge

        def at(parts: Tensor) -> Tensor:
            nonlocal guided
            throw_exception_if_processing_interrupted()
            delta = basis.whole(parts.to(x.device, x.dtype)).to(x.dtype)
            outs = self.predict(args, [x + (scale - 1) * delta, x + scale * delta])
            guided = outs[1] + scale * (outs[0] - outs[1])
            return projected(self.direction(args, outs), parts)

        start = projected(direction, torch.zeros(x.shape[:2], dtype=torch.float64))
        found = solve(start, at, settings.iterations, tolerance)
        if not found.iterations:  # the prompts predict the same
            guided = args["conds_out"][1] + scale * (args["conds_out"][0] - args["conds_out"][1])
        self.wanted += len(x)
        self.converged += int(found.converged.sum())
        self.iterations += found.iterations
        return guided, found.converged.to(x.device)

    def predict(self, args: dict[str, Any], latents: list[Tensor]) -> list[Tensor]:
        """Both prompts' denoised predictions, each at its own latent, in calls that no node of this pack watches."""
        options = args["model_options"]
        transformer_options = {**options["transformer_options"], EXTRA_PASS: True}
        options = {**options, "transformer_options": transformer_options}
        return [
            calc_cond_batch(args["model"], [conds], x, args["sigma"], options)[0]
            for conds, x in zip(args["conds"], latents, strict=True)
        ]

    def summary(self) -> str:
        if not self.wanted:
            return ""
        share = f"{NODE} converged in {self.converged} of {self.wanted} predictions"
        rest = "" if self.converged == self.wanted else "; the others are plain CFG's"
        return f"{share}, with {self.iterations} iterations{rest}"

    def finish(self, samples: Tensor) -> None:
        if not self.asked:
            self.warn_once(f"this node had no effect. {self.guider} does without the host's CFG. Use KSampler or "
                           "CFGGuider.")
        elif self.wanted and not self.converged:
            self.warn_once(f"in {self.settings.iterations} iterations it has not converged once, so this run is plain "
                           "CFG's. Raise iterations, tolerance or regularization.")


def patch_characteristic(model: ModelPatcher, settings: Settings) -> ModelPatcher:
    """A clone of `model` that samples with Characteristic Guidance."""
    model = model.clone()
    key = add_run(model, lambda guider, sigmas: CharacteristicRun(guider, settings))

    def pre_cfg(args: dict[str, Any]) -> list[Tensor]:
        run = current_run(args["model_options"], key)
        if run is None:
            raise ValueError(f"{NODE}: this sampler does not use the host's guider, without which it cannot act.")
        return run.guide(args)

    model.set_model_sampler_pre_cfg_function(pre_cfg)
    return model
