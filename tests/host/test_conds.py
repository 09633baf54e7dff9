"""S-CFG with every way in which the host can arrange prompts: masks, areas, lengths, ranges, defaults, batches."""

from __future__ import annotations

import comfy.samplers
import comfy_extras.nodes_hooks as hook_nodes
import nodes as host_nodes
import pytest
import torch
from host import tiny
from host.scfg_runs import SIZE, expected_rates, probed, relative, run, with_regions, with_scfg

from semantic_guidance.sampling.conds import active_conds
from semantic_guidance.words.prompt import CONDITIONING_KEY, PromptWords, Word

LEFT, RIGHT = torch.zeros(1, *SIZE), torch.ones(1, *SIZE)
LEFT[..., : SIZE[1] // 2] = 1
RIGHT[..., : SIZE[1] // 2] = 0


def masked(conditioning, mask, strength: float = 1.0):
    return host_nodes.ConditioningSetMask().append(conditioning, mask, "default", strength)[0]


def in_area(conditioning, height: int, width: int, top: int, left: int, strength: float = 1.0):
    """Sizes and places in latent pixels."""
    node = host_nodes.ConditioningSetArea()
    return node.append(conditioning, width * 8, height * 8, left * 8, top * 8, strength)[0]


def within(conditioning, start: float, end: float):
    return host_nodes.ConditioningSetTimestepRange().set_range(conditioning, start, end)[0]


def separately(monkeypatch, model):
    """Make the host evaluate each cond in a model call of its own."""
    monkeypatch.setattr(model, "get_free_memory", lambda device: 0)
    return model


def first_step(positive, model):
    """The first step's regions, the prediction they were made from, and the latent."""
    predictions = []
    model, record = with_regions(probed(model, predictions.append), reference="whole image")
    samples = run(model, positive=positive)
    regions = record.of(samples)
    return regions, predictions[0], samples


def owners(regions, half) -> set:
    """(prompt, column) of the regions that have a place in this half of the first step."""
    inside = regions.steps[0].owner[half.bool().expand(1, *SIZE)].unique().tolist()
    return {(regions.regions[index].prompt, regions.regions[index].column) for index in inside}


def test_two_masked_prompts_each_have_their_regions_where_they_act(sd15):
    one, two = tiny.prompt(0), tiny.prompt(2)
    regions, prediction, _ = first_step(masked(one, LEFT) + masked(two, RIGHT), sd15)
    for number, (alone, half) in enumerate([(one, LEFT), (two, RIGHT)]):
        expected, _, _ = first_step(alone, sd15)
        assert owners(regions, half) == {(number, column) for _, column in owners(expected, half)}
    step = regions.steps[0]
    torch.testing.assert_close(step.rates, expected_rates(prediction, step), atol=0, rtol=tiny.EXACT)


def test_an_area_is_read_at_its_own_size(sd15):
    background, corner = tiny.prompt(0), in_area(tiny.prompt(2), 8, 12, 8, 0, strength=30.0)
    regions, prediction, _ = first_step(background + corner, sd15)
    step = regions.steps[0]
    inside = torch.zeros(1, *SIZE)
    inside[:, 12:, :8] = 1  # away from the area's faded border
    assert {prompt for prompt, _ in owners(regions, inside)} == {1}
    outside = torch.ones(1, *SIZE)
    outside[:, 8:, :12] = 0
    assert {prompt for prompt, _ in owners(regions, outside)} == {0}
    assert step.rates.isfinite().all()


ARRANGED = {
    "overlapping masks": lambda: masked(tiny.prompt(0), LEFT * 0.7 + 0.2, 0.8) + masked(tiny.prompt(2), RIGHT + 0.1),
    "areas": lambda: tiny.prompt(0) + in_area(tiny.prompt(2), 8, 16, 4, 8, 0.5) + in_area(tiny.prompt(3), 8, 8, 0, 0),
    "default": lambda: hook_nodes.ConditioningSetDefaultAndCombine().set_default_and_combine(
        masked(tiny.prompt(0), LEFT * 0.6), tiny.prompt(2))[0],
    "default of no use": lambda: hook_nodes.ConditioningSetDefaultAndCombine().set_default_and_combine(
        tiny.prompt(0), tiny.prompt(2))[0],
    "one has ended": lambda: tiny.prompt(0) + within(tiny.prompt(2), 0.0, 0.3),
}


@pytest.mark.parametrize("arrangement", ARRANGED)
def test_shares_add_predictions_up_as_the_host_does(sd15, arrangement):
    errors = []

    def look(args):
        placed = active_conds(args["cond"], args["input"], args["sigma"])
        total = sum(
            item.share * comfy.samplers.calc_cond_batch(
                args["model"], [[item.cond]], args["input"], args["sigma"], args["model_options"])[0]
            for item in placed
        )
        errors.append(relative(total, args["cond_denoised"]))

    model, record = with_regions(sd15)
    samples = run(probed(model, look), positive=ARRANGED[arrangement]())
    assert len(errors) == len(record.of(samples).steps) == 2
    assert max(errors) < tiny.EXACT
    assert torch.equal(samples, run(model, positive=ARRANGED[arrangement]()))  # the extra calls left no trace


@pytest.mark.parametrize("arrangement", ARRANGED)
def test_conds_in_separate_model_calls_give_the_same_as_joint_ones(monkeypatch, sd15, arrangement):
    model = with_scfg(sd15)
    joint = run(model, positive=ARRANGED[arrangement]())
    apart = run(separately(monkeypatch, model), positive=ARRANGED[arrangement]())
    assert relative(apart, joint) < tiny.EXACT
    assert relative(run(sd15, positive=ARRANGED[arrangement]()), joint) > 1e-3


@pytest.mark.parametrize(("positive", "negative"), [(154, 77), (77, 154), (231, 154), (77, 77)])
def test_prompts_of_any_lengths_together_or_apart(monkeypatch, sd15, positive, negative):
    prompts = {"positive": tiny.prompt(0, positive), "negative": tiny.prompt(1, negative)}
    lengths = set()
    model = with_scfg(probed(sd15, lambda args: None))

    def count(executor, x, t, c_concat, c_crossattn, *args, **kwargs):
        lengths.add(c_crossattn.shape[1])
        return executor(x, t, c_concat, c_crossattn, *args, **kwargs)

    model.add_wrapper_with_key("apply_model", "test", count)
    joint = run(model, **prompts)
    assert lengths == {torch.tensor(positive).lcm(torch.tensor(negative)).item()}  # the host repeated tokens
    assert relative(run(separately(monkeypatch, model), **prompts), joint) < tiny.EXACT
    assert lengths >= {positive, negative}


def test_every_chunk_of_a_negative_has_a_start_token_that_stands_for_the_background(sd15):
    """A negative of twice the same 77 tokens sees what the one does, with half of each token in either chunk."""
    (embedding, extra), = tiny.prompt(1)
    twice = [[embedding.repeat(1, 2, 1), extra]]
    model = with_scfg(sd15)
    assert relative(run(model, negative=twice), run(model)) < tiny.EXACT


def test_a_negative_that_is_zeroed_out_has_no_foreground_and_is_told(sd15, caplog):
    """Every token gets the same attention then, and rounding would decide what the foreground is."""
    (negative,) = host_nodes.ConditioningZeroOut().zero_out(tiny.prompt(1))
    samples = run(with_scfg(sd15), negative=negative, batch=2)
    assert torch.equal(samples, run(with_scfg(sd15, reference="whole image"), negative=negative, batch=2))
    assert caplog.text.count("the negative prompt is zeroed out") == 1
    halves = masked(negative, LEFT) + masked(tiny.prompt(3), RIGHT)
    assert run(with_scfg(sd15), negative=halves).isfinite().all()


def test_a_copy_for_the_area_of_a_negative_keeps_its_own_words(sd15):
    """The host makes it of the negative, and gives it the positive's text."""
    named = {seed: PromptWords((Word(f"word {seed}", tuple(range(77))),), 77) for seed in (0, 1)}
    positive, corner = (tiny.prompt(seed, **{CONDITIONING_KEY: words}) for seed, words in named.items())
    model, record = with_regions(sd15)
    samples = run(model, positive=positive, negative=tiny.prompt(2) + in_area(corner, 8, 12, 8, 0, strength=30.0))
    regions = record.of(samples).regions
    assert {region.prompt for region in regions} == {0, 1}
    assert {region.text for region in regions} == {"word 0"}


@pytest.mark.identity
def test_cfg_1_equals_plain_and_says_why(sd15, caplog):
    assert torch.equal(run(with_scfg(sd15), cfg=1.0), run(sd15, cfg=1.0))
    assert "does not use the negative prompt (cfg 1)" in caplog.text


def test_a_batch_of_two_equals_its_singles(sd15):
    model, record = with_regions(sd15)
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    both = run(model, batch=2, noise=noise)
    regions = record.of(both)
    for image in range(2):
        single = run(model, noise=noise[image : image + 1])
        assert relative(both[image : image + 1], single) < tiny.EXACT
        for step, alone in zip(regions.steps, record.of(single).steps, strict=True):
            torch.testing.assert_close(step.rate_map[image : image + 1], alone.rate_map, atol=0, rtol=2**-10)


def test_a_prompt_for_each_image_of_a_batch(sd15):
    """As ConditioningBatch nodes of other packs make them: an embedding [B, N, C]."""
    one, two = tiny.prompt(0), tiny.prompt(2)
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    model = with_scfg(sd15)
    both = run(model, positive=[[torch.cat([one[0][0], two[0][0]]), one[0][1]]], batch=2, noise=noise)
    for image, prompt in enumerate((one, two)):
        single = run(model, positive=prompt, noise=noise[image : image + 1])
        assert relative(both[image : image + 1], single) < tiny.EXACT


@pytest.mark.parametrize("size", [(36, 44), (17, 23), (8, 40), (9, 9)])
def test_odd_sizes(sd15, size):
    model, record = with_regions(sd15)
    samples = run(model, size=size)
    assert samples.isfinite().all()
    step = record.of(samples).steps[0]
    assert step.owner.shape == step.rate_map.shape == (1, *size)
    assert len(step.owner.unique()) > 1


@pytest.mark.parametrize("mask", [None, LEFT[:, None]])
def test_image_to_image_and_inpainting(sd15, mask):
    picture = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(5))
    options = dict(samples=picture, denoise=0.6, noise_mask=mask)
    model, record = with_regions(sd15)
    samples, plain = run(model, **options), run(sd15, **options)
    assert relative(samples, plain) > 1e-3
    assert [step.step for step in record.of(samples).steps] == [0, 1]
    if mask is not None:
        kept = mask.expand_as(samples) == 0
        assert torch.equal(samples[kept], plain[kept])


def test_a_negative_that_ends_half_way_leaves_plain_cfg_for_the_rest(sd15, caplog):
    model, record = with_regions(sd15)
    negative = within(tiny.prompt(1), 0.0, 0.5)
    samples = run(model, negative=negative, steps=6)
    steps = [step.step for step in record.of(samples).steps]
    assert steps == list(range(len(steps)))
    assert 0 < len(steps) < 6
    assert "switched off by its timestep range" in caplog.text
    ends = with_scfg(sd15, end_percent=0.5)
    assert torch.equal(run(ends, negative=negative, steps=6), samples)


def test_a_prompt_keeps_its_number_when_the_one_before_it_has_ended(sd15):
    model, record = with_regions(sd15)
    regions = record.of(run(model, positive=within(tiny.prompt(0), 0.0, 0.3) + tiny.prompt(2), steps=4))
    numbers = [{regions.regions[index].prompt for index in step.owner.unique().tolist()} for step in regions.steps]
    assert numbers[-1] == {1}
    assert 0 in numbers[0]


SAMPLERS = ["heun", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "euler_cfg_pp", "dpmpp_2m", "uni_pc", "lcm"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sd15, sampler):
    model, record = with_regions(sd15)
    samples = run(model, sampler=sampler)
    assert samples.isfinite().all()
    assert relative(samples, run(sd15, sampler=sampler)) > 1e-3
    regions = record.of(samples)
    assert [step.step for step in regions.steps] == [0, 1]
    assert all(step.sigma > 0 for step in regions.steps)
