"""Characteristic Guidance against the paper's equation, and in every company."""

from __future__ import annotations

import gc

import comfy.model_management
import pytest
import torch
from comfy.samplers import calc_cond_batch
from host import scfg_runs, sega_families, sega_runs, test_company, test_conds, test_everywhere, test_runs, tiny
from host.characteristic_runs import characteristic
from host.company import UnheardGuider, sampled
from host.scfg_runs import probed, relative
from host.schedule_runs import metered, scheduled
from host.sega_runs import SIZE, prediction_type, run
from host.waits import per_evaluation

from semantic_guidance.sampling.characteristic import run as characteristic_run

EASY = dict(iterations=12, regularization=50.0, tolerance=2e-3)  # random weights contract little
CLOSE = dict(iterations=30, regularization=20.0, tolerance=1e-3)


def calls_of(monkeypatch, model) -> list[int]:
    """The rows of each call of the model."""
    calls: list[int] = []
    original = model.model.apply_model
    monkeypatch.setattr(model.model, "apply_model", lambda x, *args, **kwargs: (
        calls.append(len(x)), original(x, *args, **kwargs))[1])
    return calls


@pytest.mark.parametrize(("kind", "sigma"), [("epsilon", 0.03), ("epsilon", 10.0), ("v", 0.03), ("velocity", 0.03)])
def test_what_it_finds_solves_the_papers_equation(monkeypatch, sd15, kind, sigma):
    """With eps of both prompts, each at its own latent, and its own basis and ridge."""
    model, cfg = prediction_type(sd15, kind), 2.0
    signal = 1 - sigma if kind == "velocity" else 1.0
    found, checked = [], []
    solve = characteristic_run.solve
    monkeypatch.setattr(characteristic_run, "solve", lambda *args: found.append(solve(*args)) or found[-1])

    def look(args):
        x = args["input"]

        def eps(which, latent):
            denoised = calc_cond_batch(args["model"], [args[which]], latent, args["sigma"], args["model_options"])[0]
            return (latent - signal * denoised) / sigma

        first = (eps("uncond", x) - eps("cond", x)).flatten(2)
        unit = first / first.norm(dim=2, keepdim=True)
        delta = (found[0].parts[..., None] * unit).view_as(x)
        uncond, cond = eps("uncond", x + cfg * delta), eps("cond", x + (cfg - 1) * delta)
        start = float(model.get_model_object("model_sampling").percent_to_sigma(0.02))
        at_start = (1 - start if kind == "velocity" else 1.0) / start
        alpha_bar = [ratio**2 / (1 + ratio**2) for ratio in (signal / sigma, at_start)]
        ridge = 1 + CLOSE["regularization"] * min(1.0, alpha_bar[1] / alpha_bar[0])
        along = (sigma * (uncond - cond).flatten(2) * unit).sum(dim=2, keepdim=True)
        difference = (along * unit).view_as(x) / ridge - delta
        assert difference.square().mean().sqrt() < CLOSE["tolerance"] * (signal**2 + sigma**2) ** 0.5
        assert relative(args["denoised"], (x - sigma * (uncond + cfg * (cond - uncond))) / signal) < 1e-4
        plain = eps("uncond", x) + cfg * (eps("cond", x) - eps("uncond", x))
        checked.append(relative(args["denoised"], (x - sigma * plain) / signal))

    run(probed(characteristic(model, **CLOSE), look), steps=1, cfg=cfg, sigmas=torch.tensor([sigma, 0.0]))
    assert found[0].converged.all() and found[0].parts.abs().max() > 1e-3 and checked[0] > 1e-4


@pytest.mark.identity
@pytest.mark.parametrize("settings", [
    {"iterations": 0}, {"start_percent": 0.6, "end_percent": 0.6}, {"iterations": 1, "end_percent": 0.5},
])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_with_nothing_to_do_or_where_it_does_not_converge_the_result_is_the_hosts_alone(sd15, settings, sampler):
    assert torch.equal(run(characteristic(sd15, **settings), sampler=sampler), run(sd15, sampler=sampler))


@pytest.mark.identity
def test_cfg_1_and_equal_prompts_are_the_hosts_alone(sd15, caplog):
    assert torch.equal(run(characteristic(sd15), cfg=1.0), run(sd15, cfg=1.0))
    assert "Characteristic Guidance: cfg is 1, so there is nothing to correct" in caplog.text
    same = dict(negative=tiny.prompt(0))
    assert relative(run(characteristic(sd15), **same), run(sd15, **same)) < tiny.EXACT
    model = characteristic(sd15, **EASY).clone()
    plain = sd15.clone()
    for each in (model, plain):
        each.model_options["disable_cfg1_optimization"] = True
    assert torch.equal(run(model, cfg=1.0), run(plain, cfg=1.0))


def test_it_costs_two_calls_an_iteration_and_the_meter_tells(monkeypatch, sd15):
    model, record = metered(characteristic(sd15, **EASY))
    calls = calls_of(monkeypatch, sd15)
    samples = run(model, steps=2, batch=2)
    (measured,) = [record.of(samples)]
    told = measured.summary()
    iterations = (len(calls) - 2) // 2
    assert calls.count(4) == 2 and set(calls) == {4, 2} and iterations > 1
    assert f"Characteristic Guidance converged in 4 of 4 predictions, with {iterations} iterations." in told
    assert relative(samples, run(sd15, steps=2, batch=2)) > 1e-3


def test_a_run_that_never_converges_says_so(sd15, caplog):
    model, record = metered(characteristic(sd15, iterations=1, end_percent=0.5))
    samples = run(model)
    assert "Characteristic Guidance: in 1 iterations it has not converged once, so this run is plain CFG" in caplog.text
    told = record.of(samples).summary()
    assert "converged in 0 of 1 predictions, with 1 iterations; the others are plain CFG's" in told


@pytest.mark.parametrize("arrangement", test_conds.ARRANGED)
def test_conds_in_separate_model_calls_give_the_same_as_joint_ones(monkeypatch, sd15, arrangement):
    options = dict(positive=test_conds.ARRANGED[arrangement](), size=test_conds.SIZE, steps=1)
    joint = run(characteristic(sd15, **EASY), **options)
    assert joint.isfinite().all()
    assert relative(run(test_conds.separately(monkeypatch, characteristic(sd15, **EASY)), **options), joint) < 1e-4


@pytest.mark.parametrize("sampler", test_conds.SAMPLERS)
def test_samplers(sd15, sampler):
    samples = run(characteristic(sd15, **EASY), sampler=sampler)
    assert samples.isfinite().all()
    assert relative(samples, run(sd15, sampler=sampler)) > 1e-3


def test_twice_alike_a_batch_is_its_singles_and_bfloat16(sd15):
    model = characteristic(sd15, **EASY)
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    both = run(model, batch=2, noise=noise, steps=1)
    assert torch.equal(run(model.clone(), batch=2, noise=noise, steps=1), both)
    for image in range(2):
        assert relative(both[image : image + 1], run(model, noise=noise[image : image + 1], steps=1)) < 1e-4
    half = tiny.sd15(dtype=torch.bfloat16)
    samples = run(characteristic(half, **EASY))
    assert samples.isfinite().all() and torch.equal(run(characteristic(half, **EASY)), samples)


def test_an_interrupt_leaves_nothing_behind(monkeypatch, sd15):
    started = test_runs.watched(monkeypatch, characteristic_run, "CharacteristicRun")

    def interrupt(args):
        raise comfy.model_management.InterruptProcessingException

    model = characteristic(sd15, **EASY)
    before = test_runs.keys_of(model.model_options)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(probed(model, interrupt))
    gc.collect()
    assert [reference() for reference in started] == [None]
    assert test_runs.keys_of(model.model_options) == before


def test_the_user_may_stop_it_between_two_iterations(monkeypatch, sd15):
    model, calls = characteristic(sd15, **EASY), calls_of(monkeypatch, sd15)

    def stop(args):
        comfy.model_management.interrupt_current_processing()
        return args["conds_out"]

    stopped = sd15.clone()
    stopped.set_model_sampler_pre_cfg_function(stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(characteristic(stopped, **EASY))
    assert len(calls) == 1 and model is not None


OTHERS = [
    test_company.with_rescale, test_company.with_pag, scfg_runs.with_scfg,
    sega_runs.with_sega, scheduled, *test_company.NEIGHBOURS, test_company.with_easycache,
]


@pytest.mark.parametrize("other", OTHERS)
def test_both_act_beside_other_nodes(sd15, other):
    for both in (characteristic(other(sd15), **EASY), other(characteristic(sd15, **EASY))):
        torch.manual_seed(0)  # ToMe and HyperTile draw from the global generator
        samples = run(both, size=test_company.SIZE)
        assert samples.isfinite().all()
        torch.manual_seed(0)
        assert relative(samples, run(other(sd15), size=test_company.SIZE)) > 1e-4


def test_apg_after_it_acts_on_the_correction(sd15):
    samples = run(test_everywhere.with_apg(characteristic(sd15, **EASY)))
    assert relative(samples, run(test_everywhere.with_apg(sd15))) > 1e-4
    assert relative(samples, run(characteristic(sd15, **EASY))) > 1e-3


def test_scfg_sees_the_same_regions_beside_it(sd15):
    model, record = scfg_runs.with_regions(characteristic(sd15, **EASY))
    alone, of_alone = scfg_runs.with_regions(sd15)
    first, expected = (kept.of(run(m, steps=1)).steps[0] for m, kept in ((model, record), (alone, of_alone)))
    assert torch.equal(first.owner, expected.owner)


def test_a_guider_without_the_hosts_cfg_is_told(sd15, caplog):
    plain = sampled(UnheardGuider, sd15)
    assert torch.equal(sampled(UnheardGuider, characteristic(sd15, **EASY)), plain)
    assert "Characteristic Guidance: this node had no effect. UnheardGuider does without the host's CFG" in caplog.text


def test_it_waits_once_a_step_and_once_an_iteration(sd15):
    model, found = per_evaluation(characteristic(sd15, iterations=3, tolerance=0.00001))
    run(model, batch=2, steps=3)
    solving, sigma = "sampling/characteristic/run.py", "sampling/run.py"  # what else is counted is on the CPU
    for waits in found:
        assert max(count for place, count in waits.items() if place.startswith(solving)) <= 1 + 3, waits
        assert sum(count for place, count in waits.items() if place.startswith(sigma)) == 1, waits


@pytest.mark.parametrize("name", ["sd3", "wan", sega_families.SOUND])
def test_transformers_video_and_video_with_sound(name):
    model = sega_families.of_family(name)
    options = dict(iterations=20, regularization=50.0, tolerance=2e-2)
    samples = sega_families.run(characteristic(model, **options), name, cfg=2.0)
    assert samples.isfinite().all()
    assert relative(samples, sega_families.run(model, name, cfg=2.0)) > 1e-4


@pytest.mark.parametrize(("settings", "message"), [
    ({"iterations": 51}, "iterations is 51, not a number from 0 to 50"),
    ({"regularization": float("nan")}, "regularization is nan, not a number from 0.0 to 100.0"),
    ({"tolerance": 0.0}, "tolerance is 0.0, not a number from 1e-05 to 1.0"),
])
def test_bad_input_is_named(sd15, settings, message):
    with pytest.raises(ValueError, match=f"Characteristic Guidance: {message}"):
        characteristic(sd15, **settings)
