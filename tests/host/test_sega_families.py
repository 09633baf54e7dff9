"""SEGA on a tiny model of every family, against a guider that does the same prompt by prompt."""

from __future__ import annotations

import comfy.model_sampling as spaces
import comfy.nested_tensor
import comfy.sample
import comfy.samplers
import pytest
import torch
from host import tiny_dit
from host.sega_families import FAMILIES, SOUND, alone, flat, latent, of_family, prompt, run
from host.sega_runs import concept, with_sega
from host.test_company import with_nag, with_windows

from semantic_guidance.guidance.sega import Edit, Momentum, sega_step

STEPS = 3
MOMENTUM = 0.5
CHAIN = [
    {"edit_guidance_scale": 6.0, "threshold": 0.8, "warmup": 0},
    {"edit_guidance_scale": 4.0, "direction": "remove", "warmup": 1, "cooldown": 2},
]


@pytest.fixture
def model(name):
    return of_family(name)


def edited(model, name: str, chain: list[dict] = CHAIN, **settings):
    """With concepts whose prompts are longer than the others."""
    concepts = ()
    for number, item in enumerate(chain):
        concepts = concept(prompt(name, 2 + number, tokens=10), concepts, **item)
    return with_sega(model, concepts, momentum_scale=MOMENTUM, **settings)


class Plain(comfy.samplers.CFGGuider):
    """SEGA as a guider of its own: it evaluates prompt by prompt, and unpacks nested latents by itself."""

    step, nu, next_nu = -1, None, None

    def gain(self, sigma):
        space = self.inner_model.model_sampling
        if isinstance(space, spaces.CONST):
            return -sigma
        if isinstance(space, spaces.COSMOS_RFLOW):
            return -sigma / (1 + sigma)
        if isinstance(space, spaces.EDM):
            return sigma * space.sigma_data / (sigma**2 + space.sigma_data**2) ** 0.5
        assert isinstance(space, spaces.V_PREDICTION_DDPM)
        return -sigma / (sigma**2 + 1) ** 0.5

    def predict_noise(self, x, timestep, model_options, seed):
        def predict(name):
            return comfy.samplers.calc_cond_batch(self.inner_model, [self.conds[name]], x, timestep, model_options)[0]

        sigma = timestep[0]
        schedule = model_options["transformer_options"]["sample_sigmas"]
        step = min(int((schedule * 1.00001 >= sigma).sum()) - 1, len(schedule) - 2)
        if first := step > self.step:
            self.step, self.nu = step, self.next_nu
        edits = [
            Edit(item["edit_guidance_scale"], item.get("threshold", 0.9), item["warmup"], item.get("cooldown"),
                 remove=item.get("direction") == "remove") for item in self.chain
        ]
        uncond, cond = predict("negative"), predict("positive")
        directions = [self.parts((predict(f"concept {c}") - uncond) / self.gain(sigma)) for c in range(len(edits))]
        found = [
            sega_step(torch.zeros_like(part), [parts[p] for parts in directions], edits,
                      None if self.nu is None else self.nu[p], step, Momentum(MOMENTUM, 0.4))
            for p, part in enumerate(self.parts(x))
        ]
        if first:
            self.next_nu = [nu for _, nu in found]
        edit = torch.cat([edit.flatten(1) for edit, _ in found], dim=1).reshape(x.shape)
        return uncond + self.cfg * (cond - uncond) + self.gain(sigma) * edit

    def parts(self, packed):
        if self.shapes is None:
            return [packed]
        sizes = [torch.Size(shape[1:]).numel() for shape in self.shapes]
        return [part.reshape(shape) for part, shape in zip(packed.split(sizes, dim=-1), self.shapes, strict=True)]


def by_plain_guider(model, name: str, sampler: str = "euler", cfg: float = 4.0):
    guider, samples = Plain(model), latent(name)
    guider.chain = CHAIN
    guider.shapes = [part.shape for part in samples.unbind()] if samples.is_nested else None
    guider.inner_set_conds({"positive": prompt(name, 0), "negative": prompt(name, 1, tokens=7)} | {
        f"concept {number}": prompt(name, 2 + number, tokens=10) for number in range(len(CHAIN))
    })
    guider.set_cfg(cfg)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    noise = comfy.sample.prepare_noise(samples, 7)
    with torch.inference_mode():
        return flat(guider.sample(noise, samples, comfy.samplers.sampler_object(sampler), sigmas, seed=7))


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_a_plain_loop(model, name, monkeypatch):
    alone(monkeypatch, model)
    plain, expected = run(model, name), by_plain_guider(model, name)
    effect = (expected - plain).abs().max()
    assert effect > 1e-2 * plain.abs().max()
    assert (run(edited(model, name), name) - expected).abs().max() < 1e-5 * effect


@pytest.mark.parametrize("name", ["sd3", "wan", SOUND])
@pytest.mark.parametrize(("sampler", "cfg"), [("heun", 4.0), ("euler", 1.0)])
def test_equals_a_plain_loop_with_another_sampler_and_without_cfg(model, name, sampler, cfg, monkeypatch):
    alone(monkeypatch, model)
    expected = by_plain_guider(model, name, sampler, cfg)
    result = run(edited(model, name), name, sampler=sampler, cfg=cfg)
    assert (result - expected).abs().max() < 1e-5 * (expected - run(model, name, sampler=sampler, cfg=cfg)).abs().max()


@pytest.mark.parametrize("name", ["wan", "cogvideo"])
def test_equals_a_plain_loop_in_context_windows_over_time(model, name, monkeypatch):
    windows = with_windows(model, dim=2, context_length=1, context_overlap=0)
    alone(monkeypatch, model)
    expected = by_plain_guider(windows, name)
    effect = (expected - run(windows, name)).abs().max()
    assert (expected - by_plain_guider(model, name)).abs().max() > 1e-2 * effect
    assert (run(edited(windows, name), name) - expected).abs().max() < 1e-5 * effect


@pytest.mark.identity
@pytest.mark.parametrize("name", FAMILIES)
def test_no_strength_an_interrupt_and_a_second_run_change_nothing(model, name):
    nothing = edited(model, name, [{"edit_guidance_scale": 0.0}, {"warmup": 1000}])
    assert torch.equal(run(nothing, name, steps=2), run(model, name, steps=2))
    patched = edited(model, name)

    def stop(step, *_):
        if step == 1:
            raise InterruptedError

    before = repr(patched.model_options)
    with pytest.raises(InterruptedError):
        run(patched, name, callback=stop)
    assert repr(patched.model_options) == before
    assert torch.equal(run(patched, name, steps=2), run(patched, name, steps=2))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in tiny_dit.UNJOINED])
def test_a_batch_equals_its_singles_and_calls_apart_equal_joint_ones(model, name, monkeypatch):
    """At a threshold of 0 no rounding decides which positions are edited.

    In float32, runs that differ in rounding alone end about as far apart as those from noise that differs by 1e-6,
    whatever the family makes of it: ten times that is the bound.
    """
    patched = edited(model, name, [{**item, "threshold": 0.0} for item in CHAIN])
    noise = comfy.sample.prepare_noise(latent(name, 2), 3)
    settings = {"batch": 2, "noise": noise, "steps": 2}
    joint = run(patched, name, **settings)
    bound = 10 * (run(patched, name, **{**settings, "noise": noise * (1 + 1e-6)}) - joint).abs().max()
    assert bound < 0.05 * (joint - run(model, name, **settings)).abs().max()
    second = [part[1:] for part in (noise.unbind() if noise.is_nested else [noise])]
    noise = comfy.nested_tensor.NestedTensor(second) if noise.is_nested else second[0]
    assert (run(patched, name, noise=noise, steps=2) - joint[1:]).abs().max() < bound
    alone(monkeypatch, model)
    assert (run(patched, name, **settings) - joint).abs().max() < bound


@pytest.mark.parametrize("cfg", [4.0, 1.0])
@pytest.mark.parametrize("name", ["flux"])
def test_a_node_that_mixes_the_prompts_in_joint_attention_does_not_reach_the_edit(model, name, cfg):
    """The host's NAG gives the positive and the negative prompt one result where both are evaluated in one call."""
    guided = with_nag(model)
    negative = prompt(name, 1)
    plain = run(guided, name, negative=negative, cfg=cfg)
    same = run(with_sega(guided, concept(prompt(name, 1), threshold=0.0)), name, negative=negative, cfg=cfg)
    other = run(with_sega(guided, concept(prompt(name, 2), threshold=0.0)), name, negative=negative, cfg=cfg)
    assert (plain - run(model, name, negative=negative, cfg=cfg)).abs().max() > 1e-2 * (other - plain).abs().max()
    assert (same - plain).abs().max() < 1e-4 * (other - plain).abs().max()
