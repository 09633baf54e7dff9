"""The SEGA node against whole sampling loops written here from the paper's formulas, prediction by prediction."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.sample
import comfy.samplers
import pytest
import torch
from host import tiny
from host.scfg_runs import relative
from host.sega_runs import SIZE, concept, concepts, prediction_type, run, with_sega

STEPS = 6
SCHEDULE = {"steps": 10, "last_step": STEPS}  # ends while noise is left
SINGLE = [{"warmup": 2}]
SEVERAL = [  # a partial phase (steps 1 and 2), a cooldown, both directions
    {"warmup": 1, "edit_guidance_scale": 6.0, "threshold": 0.8, "weight": 0.5},
    {"warmup": 3, "direction": "remove", "cooldown": 5, "weight": 2.0},
    {"warmup": 0, "edit_guidance_scale": 3.0, "threshold": 0.5, "cooldown": 2},
]
NEVER = 10**6


def build(kind: str = "epsilon"):
    """A model with small predictions, so that a run does not leave the range of latents."""
    model = tiny.sd15()
    with torch.no_grad():
        model.model.diffusion_model.out[2].weight *= 0.05
    model.model.model_sampling = prediction_type(model, kind).get_model_object("model_sampling")
    return model


@pytest.fixture(scope="module")
def model():
    return build()


@dataclass
class Paper:
    """SEGA as section 3 of the paper and the authors' code have it; evaluates one prompt at a time."""

    model: object
    kind: str
    edits: list[dict]
    scale: float = 7.5
    momentum_scale: float = 0.1
    momentum_beta: float = 0.4
    step: int = -1
    nu: float | torch.Tensor = 0.0
    next_nu: float | torch.Tensor = 0.0

    def gain(self, sigma):
        """denoised = (a multiple of x) + gain * prediction; x cancels in differences between prompts."""
        return -sigma / (sigma**2 + 1) ** 0.5 if self.kind == "v" else -sigma

    def predict(self, x, sigma, prompt):
        """denoised for one prompt."""
        text = tiny.prompt(prompt)[0][0].repeat(x.shape[0], 1, 1)
        return self.model.model.apply_model(x, sigma.expand(x.shape[0]), c_crossattn=text)

    def __call__(self, x, sigma, step):
        """denoised for x at sigma, an evaluation that belongs to this sampler step."""
        if step > self.step:
            self.step, self.nu, first = step, self.next_nu, True
        else:
            first = False
        uncond, cond = self.predict(x, sigma, 1), self.predict(x, sigma, 0)
        gain = self.gain(sigma)
        guidance = self.scale * (cond - uncond) / gain
        total, partial, active, active_weight = 0.0, 0.0, 0, 0.0
        for number, settings in enumerate(self.edits):
            psi = settings.get("edit_guidance_scale", 5.0) * (self.predict(x, sigma, 2 + number) - uncond) / gain
            psi = -psi if settings.get("direction") == "remove" else psi
            level = torch.quantile(psi.abs().flatten(2), settings.get("threshold", 0.9), dim=2)[..., None, None]
            term = psi * (psi.abs() >= level)
            cooled = step >= settings.get("cooldown", NEVER)
            weight = 0.0 if cooled else settings.get("weight", 1.0)
            total = total + weight * term
            if step >= settings["warmup"]:
                active += 1
                active_weight += weight
                partial = partial + weight * term
        total = total + self.momentum_scale * self.nu
        if first:
            self.next_nu = self.momentum_beta * self.nu + (1 - self.momentum_beta) * total
        if active == len(self.edits):
            guidance = guidance + total
        elif active_weight > 0:
            guidance = guidance + partial / active_weight
        return uncond + gain * guidance


def by_hand(paper: Paper, sampler: str = "euler", steps: int = STEPS):
    """The whole run, with euler, heun or dpm_2 as in Karras et al. (2022)."""
    with torch.inference_mode():
        model_sampling = paper.model.get_model_object("model_sampling")
        discard = sampler == "dpm_2"  # the host drops the last but one sigma for it
        sigmas = comfy.samplers.calculate_sigmas(model_sampling, "normal", SCHEDULE["steps"] + discard)
        sigmas = sigmas[: steps + 1].double()
        empty = tiny.latent(1, *SIZE)
        noise = comfy.sample.prepare_noise(empty, 7).double()
        x = model_sampling.noise_scaling(sigmas[0], noise, empty, True)
        for i, (sigma, after) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            slope = (x - paper(x, sigma, i)) / sigma
            if sampler == "heun":
                ahead = x + slope * (after - sigma)
                slope = (slope + (ahead - paper(ahead, after, min(i + 1, steps - 1))) / after) / 2
            elif sampler == "dpm_2":
                middle = (sigma * after) ** 0.5
                halfway = x + slope * (middle - sigma)
                slope = (halfway - paper(halfway, middle, i)) / middle
            x = x + slope * (after - sigma)
        return paper.model.model.process_latent_out(model_sampling.inverse_noise_scaling(sigmas[-1], x))


class TestWholeRun:
    @pytest.mark.parametrize("settings", [SINGLE, SEVERAL], ids=["single", "several"])
    def test_equals_the_paper(self, model, settings):
        expected = by_hand(Paper(model, "epsilon", settings))
        assert relative(run(with_sega(model, concepts(*settings)), **SCHEDULE), expected) < tiny.EXACT
        assert relative(run(model, **SCHEDULE), expected) > 1e-3

    @pytest.mark.parametrize("kind", ["v", "velocity"])
    def test_equals_the_paper_in_the_space_that_the_model_predicts(self, kind):
        model, settings = build(kind), [{"edit_guidance_scale": 20.0, "warmup": 0}]
        result = run(with_sega(model, concepts(*settings), momentum_scale=0.9), steps=10, last_step=4)
        assert relative(result, by_hand(Paper(model, kind, settings, momentum_scale=0.9), steps=4)) < tiny.EXACT
        if kind == "v":  # the momentum of another space is another
            assert relative(result, by_hand(Paper(model, "epsilon", settings, momentum_scale=0.9), steps=4)) > 1e-3

    @pytest.mark.parametrize("sampler", ["heun", "dpm_2"])
    def test_samplers_that_evaluate_a_step_twice(self, model, sampler):
        expected = by_hand(Paper(model, "epsilon", SEVERAL, momentum_scale=0.5), sampler)
        result = run(with_sega(model, concepts(*SEVERAL), momentum_scale=0.5), **SCHEDULE, sampler=sampler)
        assert relative(result, expected) < tiny.EXACT

    def test_momentum_and_cfg_settings(self, model):
        expected = by_hand(Paper(model, "epsilon", SEVERAL, 3.0, 0.6, 0.8))
        result = run(with_sega(model, concepts(*SEVERAL), momentum_scale=0.6, momentum_beta=0.8), **SCHEDULE, cfg=3.0)
        assert relative(result, expected) < tiny.EXACT

    def test_at_cfg_1_the_negative_prompt_is_evaluated_for_the_edit_alone(self, model):
        expected = by_hand(Paper(model, "epsilon", SINGLE, scale=1.0))
        assert relative(run(with_sega(model, concepts(*SINGLE)), **SCHEDULE, cfg=1.0), expected) < tiny.EXACT

    def test_warmup_and_cooldown_in_percent_of_the_schedule(self, model):
        """The 8 steps of the normal schedule begin at 0, 14.3, 28.6, 42.9, ... percent of it."""
        model_sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(model_sampling, "normal", 8)
        steps = {0: 0, 14: 1, 15: 2, 40: 3, 100: 8}
        for percent, step in steps.items():
            (given,) = concept(counted_in="percent", warmup=percent, cooldown=percent)
            edit = given.edit_for(model_sampling, sigmas)
            assert (edit.warmup, edit.cooldown) == (step, step or None)
        in_percent = run(with_sega(model, concept(counted_in="percent", warmup=15, cooldown=80)), steps=8)
        in_steps = run(with_sega(model, concept(warmup=2, cooldown=6)), steps=8)
        assert torch.equal(in_percent, in_steps)

    def test_momentum_may_end_with_the_last_cooldown(self, model):
        chain = concept(cooldown=3)
        fading = run(with_sega(model, chain, momentum_scale=0.5), steps=STEPS)
        ending = run(with_sega(model, chain, momentum_scale=0.5, momentum_after_cooldown=False), steps=STEPS)
        assert relative(ending, fading) > 1e-3


class TestIdentities:
    """What changes nothing leaves exactly what the host alone gives."""

    @pytest.mark.identity
    @pytest.mark.parametrize(
        "chain",
        [(), concept(edit_guidance_scale=0.0), concept(weight=0.0), concept(warmup=3), concept(warmup=1000)],
        ids=["none", "scale 0", "weight 0", "after the end", "long after the end"],
    )
    @pytest.mark.parametrize("cfg", [7.5, 1.0])
    def test_nothing_to_do(self, model, chain, cfg):
        assert torch.equal(run(with_sega(model, chain), cfg=cfg), run(model, cfg=cfg))

    @pytest.mark.identity
    def test_without_momentum_steps_before_the_edit_are_the_hosts(self, model):
        """The samples after 2 of 4 steps, told to the callback, are equal; those at the end are not."""
        seen = {}
        for name, patched in {"host": model, "sega": with_sega(model, concept(warmup=2), momentum_scale=0.0)}.items():
            seen[name] = []
            run(patched, steps=4, callback=lambda i, d, x, n, out=seen[name]: out.append((x.clone(), d.clone())))
        for step in range(4):
            same = [torch.equal(a, b) for a, b in zip(seen["host"][step], seen["sega"][step], strict=True)]
            assert same == [step <= 2, step < 2]

    @pytest.mark.identity
    def test_running_twice_gives_the_same(self, model):
        patched = with_sega(model, concepts(*SEVERAL))
        assert torch.equal(run(patched, steps=STEPS), run(patched, steps=STEPS))

    @pytest.mark.identity
    def test_a_failed_run_leaves_nothing(self, model):
        patched = with_sega(model, concepts(*SEVERAL), momentum_scale=0.5)
        expected = run(patched, steps=STEPS)
        before = repr(patched.model_options)

        def stop(step, *_):
            if step == 3:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            run(patched, steps=STEPS, callback=stop)
        assert repr(patched.model_options) == before
        assert torch.equal(run(patched, steps=STEPS), expected)

    def test_a_batch_equals_its_singles(self, model):
        patched = with_sega(model, concepts(*SEVERAL))
        noise = torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(3))
        together = run(patched, batch=3, noise=noise, steps=4)
        for image in range(3):
            alone = run(patched, noise=noise[image : image + 1], steps=4)
            assert relative(together[image : image + 1], alone) < tiny.EXACT

    def test_separate_calls_equal_joint_ones(self, model, monkeypatch):
        patched = with_sega(model, concepts(*SEVERAL))
        joint = run(patched, steps=4)
        monkeypatch.setattr(model.model, "memory_required", lambda shape, **kwargs: 1e30)
        assert relative(run(patched, steps=4), joint) < tiny.EXACT


class TestCost:
    def calls(self, model, monkeypatch, chain, **kwargs) -> list[int]:
        """The number of rows of each model call."""
        rows, original = [], model.model.apply_model
        with monkeypatch.context() as patch:
            patch.setattr(model.model, "apply_model", lambda x, *a, **k: rows.append(len(x)) or original(x, *a, **k))
            settings = {key: kwargs.pop(key) for key in ("momentum_scale",) if key in kwargs}
            run(with_sega(model, chain, **settings), **kwargs)
        return rows

    def test_one_call_of_the_model_for_all_prompts(self, model, monkeypatch):
        assert self.calls(model, monkeypatch, concepts({}, {}, {}), steps=2) == [5, 5]

    def test_concepts_are_evaluated_only_where_they_matter(self, model, monkeypatch):
        chain = concepts({"warmup": 1, "cooldown": 4}, {"warmup": 2})
        assert self.calls(model, monkeypatch, chain, steps=5) == [4, 4, 4, 4, 3]
        assert self.calls(model, monkeypatch, chain, steps=5, momentum_scale=0.0) == [2, 3, 4, 4, 3]

    def test_momentum_that_never_acts_is_not_built(self, model, monkeypatch):
        chain = concepts({"warmup": 1}, {"warmup": 9})
        assert self.calls(model, monkeypatch, chain, steps=3) == [2, 3, 3]

    def test_at_cfg_1_the_negative_prompt_only_where_an_edit_needs_it(self, model, monkeypatch):
        chain = concept(warmup=1, cooldown=3)
        assert self.calls(model, monkeypatch, chain, steps=4, cfg=1.0, momentum_scale=0.0) == [1, 3, 3, 1]
