"""Which call of the model belongs to a sampler's step, for every sampler of the host; the model is a formula."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from host import tiny  # noqa: F401  (the host's modules)

from semantic_guidance.sampling.attend_excite.step_latent import UNMOVABLE, follow_steps

STEPS = 6
NAMES = [name for name in comfy.samplers.SAMPLER_NAMES if name not in UNMOVABLE.values()]


class Wrapped:
    """The parts of the host's model that samplers look at, around a formula; keeps all it was called for."""

    def __init__(self, sampling, sigmas):
        self.sigmas = sigmas
        self.inner_model = self.model_patcher = self
        self.model_sampling = sampling
        self.model_options: dict = {}
        self.calls: list = []

    def get_model_object(self, name):
        return self.model_sampling

    def __call__(self, x, sigma, denoise_mask=None, model_options=None, seed=None):
        self.calls.append(x.clone())
        denoised = torch.zeros_like(x)  # so that all that reaches the next step is the latent itself
        for function in (model_options or {}).get("sampler_post_cfg_function", []):
            function({"denoised": denoised, "uncond_denoised": denoised, "cond_denoised": denoised})
        return denoised


def sample(sampling, name: str, see, stop: int | None = None) -> tuple[list, list]:
    """All that the model was called for, and the number of the call at each callback."""
    torch.manual_seed(0)
    sampler = follow_steps("test", comfy.samplers.sampler_object(name), range(STEPS), see)
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    model, reported = Wrapped(sampling, sigmas), []
    x = torch.ones(1, 4, 2, 2) * sigmas[0]
    sampler.sampler_function(
        model, x, sigmas, extra_args={"model_options": {}, "seed": 1}, disable=True,
        callback=lambda state: reported.append(len(model.calls)),
    )
    return model.calls, reported


@pytest.fixture(scope="module")
def sampling(sd15):
    return sd15.get_model_object("model_sampling")


@pytest.mark.parametrize("name", NAMES)
def test_each_step_is_shown_once_and_a_move_stays(sampling, name):
    shown, count = [], 0

    def see(latent):
        nonlocal count
        count += 1
        if latent is not None:
            shown.append((latent.step, count))

    calls, reported = sample(sampling, name, see)
    steps = {step: number for step, number in shown}
    assert len(steps) == len(shown) and sorted(steps)[: STEPS - 1] == list(range(STEPS - 1))
    # Samplers report a step after the call for its latent, so that is the last one before the report.
    assert [steps[i] for i in range(STEPS - 1)] == reported[: STEPS - 1]

    def move(latent):
        if latent is not None and latent.step == 1:
            latent.x.add_(1.0)

    changed, _ = sample(sampling, name, move)
    if name != "lcm":  # its next latent is new noise and the prediction
        assert (changed[steps[2] - 1] - calls[steps[2] - 1]).abs().max() > 1e-3
    assert torch.equal(changed[0], calls[0])


def test_samplers_that_only_show_estimates_are_refused():
    for name in UNMOVABLE.values():
        with pytest.raises(ValueError, match=f"test: the sampler {name} does not let"):
            follow_steps("test", comfy.samplers.sampler_object(name), range(STEPS), print)


def test_a_sampler_that_is_not_known_is_told_of_and_may_report_more_steps_than_there_are(sampling, caplog):
    def sample_of_another_pack(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for i in range(len(sigmas) + 1):
            model(x, sigmas[min(i, len(sigmas) - 1)].expand(1))
            callback({"i": i})
        return x

    shown = []
    sampler = follow_steps("test", comfy.samplers.KSAMPLER(sample_of_another_pack), range(STEPS), shown.append)
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    sampler.sampler_function(Wrapped(sampling, sigmas), torch.ones(1, 4, 2, 2), sigmas)
    assert [latent.step for latent in shown if latent] == list(range(STEPS))
    assert "the sampler sample_of_another_pack is not one that this node knows" in caplog.text


def test_every_sampler_of_the_host_is_known(caplog):
    for name in NAMES:
        follow_steps("test", comfy.samplers.sampler_object(name), range(STEPS), print)
    assert not caplog.records
