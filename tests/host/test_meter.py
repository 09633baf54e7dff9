"""Guidance Meter: what it measures, that it changes nothing, and that its place among the nodes does not matter."""

from __future__ import annotations

import comfy.model_management
import comfy.samplers
import pytest
import torch
from host import attend_excite_runs, scfg_runs, sega_runs, test_company, test_conds, test_everywhere, test_runs, tiny
from host.scfg_runs import probed, relative
from host.schedule_runs import metered, scheduled
from host.sega_runs import SIZE, run
from host.test_everywhere import WORDS
from host.waits import per_evaluation

from semantic_guidance.guidance.meter import effective_scale
from semantic_guidance.nodes.meter_curves import SemanticGuidanceMeterCurves

NAMES = WORDS.replace(": 3", "").replace(": 0", "")


def measured(model, words: str = "", **kwargs):
    """The sampled latent and what was measured."""
    model, record = metered(model, words)
    samples = run(model, **kwargs)
    return samples, record.of(samples)


def table(steps, kind: str = "scale") -> torch.Tensor:
    """[steps, B, 1 + words]."""
    return torch.stack([getattr(step, kind) for step in steps])


@pytest.mark.parametrize("words", ["", NAMES])
def test_plain_cfg_has_its_scale_and_stays_what_it_is(sd15, words):
    samples, seen = measured(sd15, words, steps=3, cfg=5.0)
    assert torch.equal(samples, run(sd15, steps=3, cfg=5.0))
    assert [step.step for step in seen.steps] == [0, 1, 2]
    scales = table(seen.steps)
    torch.testing.assert_close(scales[..., 0], torch.full((3, 1), 5.0), atol=1e-3, rtol=0)
    known = scales[~scales.isnan()]
    torch.testing.assert_close(known, torch.full_like(known, 5.0), atol=1e-2, rtol=0)
    assert not seen.nothing and seen.cfg_scale == 5.0


OTHERS = [
    test_company.with_rescale, test_company.with_pag, test_everywhere.with_apg, scfg_runs.with_scfg,
    sega_runs.with_sega, test_everywhere.whole, test_everywhere.by_words,
]


@pytest.mark.parametrize("other", OTHERS)
def test_its_place_among_other_nodes_does_not_matter(sd15, other):
    before, record_before = metered(sd15)
    after, record_after = metered(other(sd15))
    samples = run(other(before))
    assert torch.equal(run(after), samples)
    first, last = table(record_before.of(samples).steps), table(record_after.of(samples).steps)
    torch.testing.assert_close(first, last)
    assert relative(first, torch.full_like(first, 7.5)) > 1e-3


def test_the_calls_of_attend_and_excite_are_not_measured(sd15):
    """They come before the meter's evaluation begins, with another latent than the sampler's."""
    before, record = metered(sd15)
    samples = run(attend_excite_runs.excited(before))
    after, record_after = metered(attend_excite_runs.excited(sd15))
    assert torch.equal(run(after), samples)
    for found in (record, record_after):
        scales = table(found.of(samples).steps)
        torch.testing.assert_close(scales, torch.full_like(scales, 7.5), atol=1e-3, rtol=0)


def test_a_schedules_factor_is_measured_in_the_picture_and_at_its_words(sd15):
    _, seen = measured(scheduled(sd15, preset="constant", factor=0.5))
    torch.testing.assert_close(table(seen.steps), torch.full((2, 1, 1), 1 + 0.5 * 6.5), atol=1e-3, rtol=0)
    samples, seen = measured(scheduled(sd15, preset="constant", words=WORDS), NAMES, steps=1)
    (args,) = first_predictions(scheduled(sd15, preset="constant", words=WORDS))
    predictions = (args[name] for name in ("denoised", "cond_denoised", "uncond_denoised"))
    expected = effective_scale(*predictions, seen.regions.float()).float()
    known = ~expected.isnan()
    torch.testing.assert_close(table(seen.steps)[0, :, 1:][known], expected[known], atol=0.05, rtol=0.01)
    assert known.sum() >= 3 and expected[known].max() > 9 and expected[known].min() < 6


def first_predictions(model) -> list[dict]:
    seen: list[dict] = []
    run(probed(model, seen.append), steps=1)
    return seen


@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_where_nothing_is_guided_it_is_said(sd15, cfg, caplog):
    caplog.set_level("INFO")
    negative = None if cfg == 1 else tiny.prompt(0)
    samples, seen = measured(sd15, cfg=cfg, negative=negative)
    said = "cfg is 1: there is nothing to guide" if cfg == 1 else "both prompts predict the same"
    assert said in seen.nothing and f"Guidance Meter: {said}" in caplog.text
    model, record = metered(sd15)
    node = curves(record, run(model, cfg=cfg, negative=negative))
    assert said in node[2]


@pytest.mark.parametrize("words", ["", NAMES])
@pytest.mark.parametrize("arrangement", test_conds.ARRANGED)
def test_conds_in_separate_model_calls_measure_the_same_as_joint_ones(monkeypatch, sd15, words, arrangement):
    options = dict(positive=test_conds.ARRANGED[arrangement](), size=test_conds.SIZE)
    samples, joint = measured(sd15, words, **options)
    assert torch.equal(samples, run(sd15, **options))
    model, record = metered(sd15, words)
    apart = record.of(run(test_conds.separately(monkeypatch, model), **options))
    torch.testing.assert_close(table(apart.steps)[..., 0], table(joint.steps)[..., 0], atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("sampler", test_conds.SAMPLERS)
def test_samplers(sd15, sampler):
    samples, seen = measured(sd15, sampler=sampler)
    assert torch.equal(samples, run(sd15, sampler=sampler))
    assert [step.step for step in seen.steps] == [0, 1]
    torch.testing.assert_close(table(seen.steps), torch.full((2, 1, 1), 7.5), atol=1e-2, rtol=0)


@pytest.mark.parametrize("make", [
    test_runs.dual_guider("regular"), test_runs.dual_guider("nested"), test_runs.perp_neg_guider,
    test_runs.dual_model_guider,
])
def test_what_a_guider_adds_after_cfg_is_measured(sd15, make):
    """With one step of Euler the latent is the prediction that the sampler got."""
    model, record = metered(sd15)
    seen: list[dict] = []
    samples = test_runs.sample_custom(make(probed(model, seen.append)), test_runs.schedule(sd15, 1))
    (step,) = record.of(samples).steps
    args = seen[-1]
    final = model.model.process_latent_in(samples)
    ones = torch.ones(1, 1, *final.shape[2:])
    expected = effective_scale(final, args["cond_denoised"], args["uncond_denoised"], ones).float()
    torch.testing.assert_close(step.scale, expected, atol=1e-3, rtol=1e-3)


def test_a_batch_is_its_singles_in_bfloat16_too(sd15):
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    chain = scheduled(sd15, preset="constant", factor=2.0)
    _, both = measured(chain, batch=2, noise=noise)
    for image in range(2):
        _, single = measured(chain, noise=noise[image : image + 1])
        torch.testing.assert_close(table(both.steps)[:, image : image + 1], table(single.steps), atol=1e-3, rtol=1e-3)
    _, half = measured(tiny.sd15(dtype=torch.bfloat16))
    torch.testing.assert_close(table(half.steps), torch.full((2, 1, 1), 7.5), atol=0.1, rtol=0)


def test_an_interrupted_run_leaves_no_record(sd15):
    def interrupt(args):
        raise comfy.model_management.InterruptProcessingException

    model, record = metered(sd15)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(probed(model, interrupt))
    with pytest.raises(ValueError, match="not one that a sampler with this Guidance Meter returned"):
        record.of(run(sd15))
    assert record.of(run(model)).steps


@pytest.mark.parametrize(("words", "waits"), [("", 0), (NAMES, 1)])
def test_how_often_it_waits(sd15, words, waits):
    model, found = per_evaluation(metered(sd15, words)[0])
    run(model, batch=2, steps=3)
    assert [sum(count.values()) for count in found] == [waits] * 3, found


def curves(record, samples, **others) -> tuple:
    return SemanticGuidanceMeterCurves.execute(record, {"samples": samples}, **others).result


def test_two_chains_in_one_plot(sd15):
    plain, first = metered(sd15, "#31")
    rising, second = metered(scheduled(sd15))
    samples, others = run(plain, batch=2), run(rising, batch=2, steps=3)
    alone = curves(first, samples)
    scale, norm, summary = curves(
        first, samples, other_meter=second, other_latent={"samples": others}, image=torch.ones(2, 64, 128, 3)
    )
    assert scale.shape == norm.shape and len(scale) == 2 and scale.shape[1] > alone[0].shape[1]
    lines = summary.splitlines()
    assert len(lines) == 4 and lines[0].startswith("image 1: cfg 7.5; picture: effective scale 7.50 on average")
    assert "Colour values at 0 or 1: picture 100.0 %" in lines[0]
    assert lines[1].startswith("second meter: image 1: cfg 7.5; picture: effective scale")


def test_what_does_not_belong_together_is_refused(sd15):
    model, record = metered(sd15)
    samples, two = run(model), run(model, batch=2)
    for others, message in (
        ({"other_meter": record}, "a second meter needs its own latent"),
        ({"other_meter": record, "other_latent": {"samples": two}}, "one latent has 1 images and the other 2"),
        ({"image": torch.ones(3, 8, 8, 3)}, "3 images for 1 latents"),
    ):
        with pytest.raises(ValueError, match=f"Meter Curves: {message}"):
            curves(record, samples, **others)
    with pytest.raises(ValueError, match='Guidance Meter: there is no token #99'):
        run(metered(sd15, "#99")[0])
