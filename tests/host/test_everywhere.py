"""Guidance Schedule in every company: prompts as the host can arrange them, samplers, guiders, other guidance."""

from __future__ import annotations

import gc

import comfy.model_management
import comfy_extras.nodes_apg as apg
import pytest
import torch
from host import scfg_runs, sega_runs, test_company, test_conds, test_runs, tiny
from host.keep_apart_runs import with_apart
from host.regional_runs import in_regions
from host.scfg_runs import probed, relative
from host.schedule_runs import scheduled
from host.sega_runs import SIZE, run
from host.strength_runs import strengthened

from semantic_guidance.sampling.schedule import run as schedule_run

WORDS = ", ".join(f"#{column}: {3 * (column % 2)}" for column in range(77))  # every token: the picture in two halves


def whole(model):
    return scheduled(model)


def by_words(model):
    return scheduled(model, preset="constant", factor=0.5, words=WORDS)


def stronger(model):
    return strengthened(model)[0]


NODES = [whole, by_words]
EVERY = [*NODES, with_apart, in_regions, stronger]


@pytest.mark.parametrize("node", EVERY)
@pytest.mark.parametrize("arrangement", test_conds.ARRANGED)
def test_conds_in_separate_model_calls_give_the_same_as_joint_ones(monkeypatch, sd15, node, arrangement):
    positive = test_conds.ARRANGED[arrangement]()
    options = dict(positive=positive, size=test_conds.SIZE)
    joint = run(node(sd15), **options)
    apart = run(test_conds.separately(monkeypatch, node(sd15)), **options)
    assert joint.isfinite().all()
    assert relative(apart, joint) < 1e-4
    assert relative(run(sd15, **options), joint) > 1e-3


@pytest.mark.parametrize("node", EVERY)
@pytest.mark.parametrize("sampler", test_conds.SAMPLERS)
def test_samplers(sd15, node, sampler):
    samples = run(node(sd15), sampler=sampler)
    assert samples.isfinite().all()
    assert relative(samples, run(sd15, sampler=sampler)) > 1e-3


@pytest.mark.parametrize("node", EVERY)
def test_twice_alike_and_a_batch_is_its_singles(sd15, node):
    model = node(sd15)
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    both = run(model, batch=2, noise=noise)
    assert torch.equal(run(model, batch=2, noise=noise), both)
    assert torch.equal(run(model.clone(), batch=2, noise=noise), both)
    for image in range(2):
        assert relative(both[image : image + 1], run(model, noise=noise[image : image + 1])) < 1e-4


@pytest.mark.parametrize("node", NODES)
def test_an_interrupt_leaves_nothing_behind(monkeypatch, sd15, node):
    expected = run(node(sd15))
    started = test_runs.watched(monkeypatch, schedule_run, "ScheduleRun")

    def interrupt(args):
        if len(started) == 1:
            raise comfy.model_management.InterruptProcessingException

    model = node(sd15)
    before = test_runs.keys_of(model.model_options)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(probed(model, interrupt))
    gc.collect()
    assert [reference() for reference in started] == [None]
    assert test_runs.keys_of(model.model_options) == before
    assert torch.equal(run(model), expected)


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(("make", "compared"), test_runs.OF_SEVERAL_PROMPTS)
def test_guiders_of_several_prompts_get_the_effect_of_the_two_they_compare(sd15, node, make, compared):
    assert test_runs.distance_from_cfg(sd15, node(sd15), make, compared) < 1e-3


def with_apg(model):
    return test_company.first(apg.APG.execute(model, 1.0, 5.0, 0.0))


def first_denoised(model) -> torch.Tensor:
    """The guided prediction of the first step, whose noisy latent is the same for all models."""
    seen = []
    run(probed(model, lambda args: seen.append(args["denoised"])), steps=1)
    return seen[0]


ADDED = [test_company.with_rescale, test_company.with_pag, scfg_runs.with_scfg, sega_runs.with_sega, whole, by_words]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("other", ADDED)
def test_effects_on_a_prediction_add_up_in_either_order(sd15, node, other):
    plain, ours, theirs = (first_denoised(m) for m in (sd15, node(sd15), other(sd15)))
    assert relative(ours, plain) > 1e-2
    assert relative(theirs, plain) > 1e-2
    for both in (other(node(sd15)), node(other(sd15))):
        assert relative(first_denoised(both) - plain, (ours - plain) + (theirs - plain)) < 1e-4


@pytest.mark.parametrize("node", EVERY)
@pytest.mark.parametrize("other", [with_apg, *test_company.NEIGHBOURS, test_company.with_easycache])
def test_both_act_beside_nodes_that_change_the_predictions_or_the_model(sd15, node, other):
    """APG gives CFG another cond and uncond, the others change the model itself."""
    def seeded(model):
        torch.manual_seed(0)  # ToMe and HyperTile draw from the global generator
        return run(model, steps=1, size=test_company.SIZE)

    before, after = seeded(node(other(sd15))), seeded(other(node(sd15)))
    assert before.isfinite().all()
    assert relative(after, before) < 1e-4
    assert relative(before, seeded(other(sd15))) > 1e-3


@pytest.mark.parametrize("node", NODES)
def test_context_windows_image_to_image_and_bfloat16(sd15, node):
    noise = torch.randn(4, 4, *SIZE, generator=torch.Generator().manual_seed(2))
    expected = run(node(sd15), batch=4, noise=noise, steps=1)
    assert relative(run(node(test_company.with_windows(sd15)), batch=4, noise=noise, steps=1), expected) < 1e-4

    picture = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 4:] = 1
    options = dict(samples=picture, denoise=0.6, noise_mask=mask)
    samples, plain = run(node(sd15), **options), run(sd15, **options)
    kept = mask.expand_as(samples) == 0
    assert torch.equal(samples[kept], plain[kept]) and relative(samples, plain) > 1e-3

    half = tiny.sd15(dtype=torch.bfloat16)
    samples = run(node(half))
    assert samples.isfinite().all() and torch.equal(run(node(half)), samples)
    assert relative(samples, run(half)) > 1e-3
