"""The latent that a sampler holds between its steps, and when it may be moved.

A sampler keeps its latent in a local variable, so it can only be moved in place, before the step's first call of the
model. With a denoise mask the model sees a blend of that latent and of the noised original.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Container
from functools import wraps
from typing import Any, NamedTuple

from comfy.samplers import KSAMPLER, Sampler
from torch import Tensor

from .time_travel import TimeTravel

log = logging.getLogger(__name__)

# Samplers that call the model for an estimate of the next step's latent, at the next step's sigma, and how often,
# before they call it for the latent itself.
ESTIMATES = {
    "sample_heun": 1,
    "sample_heunpp2": 2,
    "sample_exp_heun_2_x0": 1,
    "sample_exp_heun_2_x0_sde": 1,
    "sample_dpm_2_ancestral": 1,
    "sample_dpmpp_2s_ancestral": 1,
    "sample_dpmpp_2s_ancestral_cfg_pp": 1,
}
# Samplers that call the model for an estimate only, or at sigmas of their own.
UNMOVABLE = {
    "sample_unipc": "uni_pc",
    "sample_unipc_bh2": "uni_pc_bh2",
    "sample_sa_solver": "sa_solver",
    "sample_sa_solver_pece": "sa_solver_pece",
    "dpm_fast_function": "dpm_fast",
    "dpm_adaptive_function": "dpm_adaptive",
}
# The others that are known to call the model for their latent first.
PLAIN = frozenset(
    f"sample_{name}" for name in (
        "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "dpm_2", "lms", "dpmpp_sde",
        "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun",
        "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm", "ipndm", "ipndm_v", "deis",
        "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp",
        "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2", "seeds_3",
    )
)


class StepLatent(NamedTuple):
    """A step's latent, as the sampler holds it. In the model's input a change of it counts `mask` times."""

    step: int  # from 0
    sigma: float
    x: Tensor  # [B, ...]
    mask: Tensor | None
    model_options: dict[str, Any]


class _Model:
    """What the sampler calls. Tells `see` of a wanted step's latent before the call, of None before any other call."""

    def __init__(
        self, model: Any, sigmas: list[float], wanted: Container[int], estimates: int,
        see: Callable[[StepLatent | None], None], travel: TimeTravel | None,
    ):
        self._model = model
        self._sigmas = sigmas
        self._wanted = wanted
        self._estimates = estimates
        self._see = see
        self._travel = travel
        self._step = 0  # the next one to be shown
        self._awaited = True
        self._estimates_left = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None = None, **kwargs) -> Tensor:
        seen = None
        if self._estimates_left:
            self._estimates_left -= 1
        elif self._awaited and self._step in self._wanted:
            due, told = self._sigmas[self._step], float(sigma.flatten()[0])
            if abs(told - due) <= 1e-4 * due:
                options = kwargs.get("model_options", {})
                seen = StepLatent(self._step, told, x, self._mask(sigma, denoise_mask, options), options)
                self._awaited = False
        for _ in range(self._travel.more(seen.step) if self._travel and seen else 0):
            self._see(seen)
            denoised = self._model(x, sigma, denoise_mask=denoise_mask, **kwargs)
            x.copy_(self._travel.back(seen.step, x, denoised, kwargs.get("seed")))
        self._see(seen)
        return self._model(x, sigma, denoise_mask=denoise_mask, **kwargs)

    def _mask(self, sigma: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor | None:
        changes = options.get("denoise_mask_function")
        if mask is None or changes is None:
            return mask
        return changes(sigma, mask, extra_options={"model": self._model.inner_model, "sigmas": self._model.sigmas})

    def finish_step(self, step: int) -> None:
        self._step, self._awaited, self._estimates_left = step + 1, True, self._estimates


def follow_steps(
    node: str, sampler: Sampler, wanted: Container[int], see: Callable[[StepLatent | None], None],
    travel: TimeTravel | None = None,
) -> KSAMPLER:
    """A copy of the sampler that shows its latent to `see` at the wanted steps, before the model is called.

    travel: takes those steps several times.

    Raises ValueError, naming the node, for samplers whose latent cannot be moved. Warns of those that are not known.
    """
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", type(sampler).__name__)
    if not isinstance(sampler, KSAMPLER) or name in UNMOVABLE:
        raise ValueError(
            f"{node}: the sampler {UNMOVABLE.get(name, name)} does not let its latent be moved between steps. "
            "Choose another, such as euler, ddim, heun, dpmpp_2m or euler_ancestral."
        )
    if name not in ESTIMATES and name not in PLAIN:
        log.warning(
            "%s: the sampler %s is not one that this node knows. The latent is moved only at steps that begin with a "
            "call of the model at the step's own sigma; the line after the run says at how many it was. euler, ddim, "
            "heun and dpmpp_2m are known.", node, name,
        )

    @wraps(function)
    def followed(model, x, sigmas, *args, callback=None, **kwargs):
        model = _Model(model, sigmas.tolist(), wanted, ESTIMATES.get(name, 0), see, travel)

        def finish_step(state: dict[str, Any]) -> None:
            model.finish_step(state["i"])
            if callback is not None:
                callback(state)

        return function(model, x, sigmas, *args, callback=finish_step, **kwargs)

    sampler = copy.copy(sampler)
    sampler.sampler_function = followed
    return sampler
