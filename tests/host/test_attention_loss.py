"""Attention Loss, Polyak's step and time travel in the host: the maths of plain loops, every company, bad input."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F
from host import test_attend_excite_company, test_conds, tiny, tiny_dit
from host.attend_excite_runs import run, traced, with_trace
from host.scfg_runs import probed, relative
from host.test_attend_excite_loop import READ, PlainUNet, tame

from semantic_guidance.nodes.attention_loss import SemanticGuidanceAttentionLoss
from semantic_guidance.sampling.attend_excite import gradient as attention_gradient
from semantic_guidance.sampling.attend_excite.losses import AttentionLoss, terms_for
from semantic_guidance.sampling.attend_excite.step_latent import follow_steps
from semantic_guidance.sampling.attend_excite.time_travel import TimeTravel, Travel

BOX = {"x": 0, "y": 32, "width": 64, "height": 96}  # of a picture of 128 x 192


def chain(*losses: dict):
    found = None
    for settings in losses:
        settings = {"words": "#2, #5", "weight": 1.0, "size": 0.3, **settings}
        found = SemanticGuidanceAttentionLoss.execute(**settings, previous=found).result[0]
    return found


ALL = chain(
    {"loss": "overlap"}, {"loss": "inside", "words": "#2", "where": BOX},
    {"loss": "size", "words": "#5", "weight": 0.5}, {"loss": "missing subject", "words": "#7", "weight": 2.0},
)
KINDS = {
    "overlap": chain({"loss": "overlap"}),
    "inside": chain({"loss": "inside", "where": BOX}),
    "size": chain({"loss": "size"}),
    "missing subject": chain({"loss": "missing subject", "weight": 3.0}),
    "all": ALL,
}


class PlainAttention(PlainUNet):
    """The blocks of the paper's grid once more, with their self-attention."""

    def __init__(self, patcher):
        super().__init__(patcher)
        for folder, number in READ:
            attention = getattr(self.unet, folder)[number][1].transformer_blocks[-1].attn1
            for part in ("to_q", "to_k"):
                getattr(attention, part).register_forward_hook(
                    lambda module, args, output, key=(folder, number, "own", part): self.seen.__setitem__(key, output)
                )

    def self_attention(self):
        maps = []
        for folder, number in READ:
            q, k = (self.seen[folder, number, "own", part].unflatten(-1, (8, -1))[0] for part in ("to_q", "to_k"))
            maps.append((torch.einsum("phd,khd->hpk", q, k) * q.shape[-1] ** -0.5).softmax(-1).mean(0))
        return torch.stack(maps).mean(0)


def plain_scores(attention, h, w):
    scores = (100 * attention[:, 1:76]).softmax(-1).T.unflatten(-1, (h, w))[:, None]  # [75, 1, h, w]
    line = torch.tensor([torch.e**-1, 1.0, torch.e**-1], dtype=torch.float64)
    kernel = (line[:, None] * line)[None, None] / line.sum() ** 2
    return F.conv2d(F.pad(scores, (1, 1, 1, 1), mode="reflect"), kernel).flatten(1)


def plain_loss(name, attention, own, h, w):
    """Of #2 and #5, by loops over positions. attention [P, 77], own [P, P]."""
    scores = plain_scores(attention, h, w)
    if name == "missing subject":
        return 3 * max(1 - scores[column - 1].max() for column in (2, 5))
    if name == "size":
        return sum((scores[column - 1].mean() - 0.3).abs() for column in (2, 5))
    if name == "overlap":
        cross = {column: attention[:, column] / attention[:, column].sum() for column in (2, 5)}
        spread = {column: sum(cross[column][x] * own[x] for x in range(h * w)) for column in (2, 5)}
        return sum(torch.minimum(spread[i], cross[j]).sum() for i, j in ((2, 5), (5, 2)))
    inside = [p for p in range(h * w) if 2 <= p // w and p % w < 4]  # of 8 x 12 positions of 16 pixels
    outside = [p for p in range(h * w) if p not in inside]
    total = 0
    for column in (2, 5):
        for sign, places in ((-1, inside), (1, outside)):
            count = -(-len(places) // 5)
            total = total + sign * scores[column - 1][places].topk(count).values.mean()
    return total + 2


@pytest.mark.parametrize("step_size", ["paper", "Polyak"])
@pytest.mark.parametrize("name", [name for name in KINDS if name != "all"])
def test_a_move_is_the_one_of_a_plain_loop(name, step_size):
    """x before the step's own call of the model, and the loss, of one Euler step."""
    model, seen = tame(tiny.sd15(seed=5)), []
    sampling = model.get_model_object("model_sampling")
    sigmas = torch.tensor([float(sampling.sigma(torch.tensor(700.0))), 0.0])

    def before_call(model):
        noise = torch.randn((1, 4, 16, 24), generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            comfy.sample.sample_custom(
                probed(model, lambda args: seen.append(args["input"])), noise, 2.0,
                comfy.samplers.sampler_object("euler"), sigmas, tiny.prompt(0), tiny.prompt(1),
                tiny.latent(1, 16, 24), disable_pbar=True, seed=1,
            )
        return seen[-1]

    settings = dict(words="", losses=KINDS[name], max_refinements=0, step_size=step_size, polyak_eta=0.001)
    x, excited = before_call(model), with_trace(model, **settings)
    moved = before_call(excited[0])
    unet, sigma = PlainAttention(model), float(sigmas[0])
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.clone().double().requires_grad_()
        unet(leaf / (1 + sigma**2) ** 0.5, 700.0, tiny.prompt(0)[0][0].double())
        loss = plain_loss(name, unet.attention(), unet.self_attention(), 8, 12)
        (gradient,) = torch.autograd.grad(loss, leaf)
    rate = 0.5 * (1 + sigma**2) if step_size == "paper" else 0.001 * x.numel() ** 0.5 / gradient.square().sum()
    assert (moved - x).abs().max() > 1e-4
    assert relative(moved - x, -rate * gradient) < tiny.EXACT
    (trace,) = excited[1]._runs
    torch.testing.assert_close(trace.steps[0].losses_before[0, 0].double(), loss.detach(), atol=1e-6, rtol=1e-6)


FAMILIES = ["areas", "sd3", "aura", "cogvideo"]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradient_of_all_losses_is_the_one_of_finite_differences(name, monkeypatch):
    """In prompts with areas, in joint attention, and in a clip, with a mask that covers a part of its frames."""
    evaluate, slopes = attention_gradient.AttentionGradient._evaluate, []
    epsilon, rtol = (0.1, 2e-2) if name == "cogvideo" else (1e-5, 1e-4)

    def compared(self, model, subjects, x, *args):
        dtype, x = x.dtype, x.double()
        gradient = evaluate(self, model, subjects, x, *args)
        values = []
        for step in (epsilon, -epsilon):
            evaluate(self, model, subjects, x + step * gradient / gradient.norm(), *args)
            values.append(subjects.values.sum())
        slopes.append(((values[0] - values[1]) / (2 * epsilon), gradient.norm()))
        return gradient.to(dtype)

    monkeypatch.setattr(attention_gradient.AttentionGradient, "_evaluate", compared)
    masks = torch.zeros(2, 10, 6)
    masks[0, :5], masks[1, 4:, :3] = 1, 1
    losses = chain({"loss": "overlap"}, {"loss": "inside", "where": masks}, {"loss": "size"})
    settings = dict(words="#2", losses=losses, max_refinements=0, map_scale="1/2" if name == "areas" else "auto")
    if name == "areas":
        run(with_trace(tiny.sd15(), **settings)[0], test_conds.ARRANGED["areas"](), steps=2)
    else:
        tiny_model = tiny_dit.MODELS[name]
        model, _ = with_trace(tiny_dit.build(tiny_model.config, tiny_model.unet, torch.float64), **settings)
        tiny_dit.sample(
            model, tiny_dit.prompt(name, 0), tiny_dit.prompt(name, 1), tiny_dit.latent(name, 1, scale=2), steps=2
        )
    (slope, length), = slopes
    assert length > 0
    torch.testing.assert_close(slope, length, rtol=rtol, atol=0)


@pytest.mark.identity
@pytest.mark.parametrize("settings", [
    {"scale_factor": 0.0, "losses": ALL, "time_travel": 3}, {"active_share": 0.0, "losses": ALL},
    {"step_size": "Polyak", "polyak_eta": 0.0}, {"enough": 0.0, "losses": chain({"loss": "size", "weight": 0.0})},
])
def test_strength_zero_is_the_host_alone(sd15, settings):
    assert torch.equal(run(with_trace(sd15, **settings)[0]), run(sd15))


def test_the_papers_loss_in_the_chain_is_the_nodes_own(sd15):
    expected, _ = traced(sd15)
    chained, trace = traced(sd15, dict(words="", losses=chain({"loss": "missing subject"})))
    assert torch.equal(chained, expected)
    assert trace.words == ("#2", "#5") and sum(int(step.refinements) for step in trace.steps)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_acts_twice_alike_and_on_a_batch_as_on_its_pictures(sd15, kind):
    noise = torch.randn((2, 4, 16, 24), generator=torch.Generator().manual_seed(1))
    settings = dict(words="", losses=KINDS[kind], active_share=0.25)
    together, trace = traced(sd15, settings, batch=2, noise=noise, steps=2)
    assert torch.equal(traced(sd15, settings, batch=2, noise=noise, steps=2)[0], together)
    assert trace.steps[0].size.min() > 0
    assert relative(run(sd15, batch=2, noise=noise, steps=2), together) > 1e-3
    for image in range(2):
        alone = traced(sd15, settings, noise=noise[[image]], steps=2)[0]
        assert relative(alone, together[[image]]) < tiny.EXACT
    assert kind in trace.summary() or kind == "all" and "overlap (#2, #5)" in trace.summary()


@pytest.mark.parametrize("arrangement", test_conds.ARRANGED)
def test_conds_in_separate_calls_give_the_same_as_joint_ones(monkeypatch, arrangement):
    positive = test_conds.ARRANGED[arrangement]()
    settings = dict(losses=ALL, max_refinements=1)
    joint, _ = traced(tiny.sd15(), settings, positive=positive, steps=2)
    apart, _ = traced(test_conds.separately(monkeypatch, tiny.sd15()), settings, positive=positive, steps=2)
    assert relative(apart, joint) < tiny.EXACT


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2s_ancestral"])
def test_samplers_and_inpainting(sd15, sampler):
    picture = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(1, 1, 16, 24)
    mask[..., 12:] = 1
    options = dict(sampler=sampler, samples=picture, noise_mask=mask)
    settings = dict(losses=ALL, time_travel=2, travel_start=0.0, travel_end=1.0, max_refinements=1)
    samples, trace = traced(sd15, settings, **options)
    assert [step.step for step in trace.steps] == [0, 1] and all(step.size > 0 for step in trace.steps)
    kept, plain = mask.expand_as(samples) == 0, run(sd15, **options)
    assert torch.equal(samples[kept], plain[kept]) and relative(samples, plain) > 1e-3
    assert torch.equal(traced(sd15, settings, **options)[0], samples)


@pytest.mark.parametrize("other", test_attend_excite_company.WORKS)
def test_beside_nodes_that_change_the_model_in_either_order(sd15, other):
    def sampled(order):
        torch.manual_seed(0)  # ToMe and HyperTile draw from the global generator
        return run(order, steps=2)

    settings = dict(losses=ALL, max_refinements=0)
    before = sampled(with_trace(other(sd15), **settings)[0])
    after = sampled(other(with_trace(sd15, **settings)[0]))
    assert before.isfinite().all() and relative(after, before) < 1e-4
    assert relative(sampled(other(sd15)), before) > 1e-3


def test_time_travel_is_a_plain_loop_of_steps_and_fresh_noise():
    """A sampler of two steps on a model whose prediction is 0.3 x; the first step is taken three times."""
    sigmas, seed = torch.tensor([8.0, 3.0, 0.0]), 7
    levels = [(1.0, float(sigma)) for sigma in sigmas]
    travel, shown = TimeTravel(Travel(3, 0.0, 0.4), levels, [0.2, 0.6, 1.0]), []

    class Model:
        inner_model = None

        def __call__(self, x, sigma, denoise_mask=None, **kwargs):
            shown.append(x.clone())
            return 0.3 * x

    sampler = follow_steps("test", comfy.samplers.sampler_object("euler"), {0, 1}, lambda latent: None, travel)
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
    result = sampler.sampler_function(Model(), start.clone(), sigmas, extra_args={"seed": seed}, disable=True)

    expected, x = [], start
    generator = torch.Generator().manual_seed(seed + 0x5E3A17C0DE)
    for _ in range(2):
        expected.append(x)
        euler = x + (x - 0.3 * x) / 8.0 * (3.0 - 8.0)
        fresh = torch.randn(x.shape, generator=generator).double()
        x = euler + (8.0**2 - 3.0**2) ** 0.5 * fresh
        assert abs(torch.corrcoef(torch.stack([fresh.flatten(), start.flatten()]))[0, 1]) < 0.2
    expected += [x, x + (x - 0.3 * x) / 8.0 * (3.0 - 8.0)]
    assert len(shown) == 4
    for one, other in zip(shown, expected, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(result, 0.3 * expected[-1])


def test_time_travel_moves_each_time_and_says_it_as_one_step(sd15):
    calls = []
    settings = dict(time_travel=3, travel_start=0.0, travel_end=1.0, max_refinements=0)
    model, record = with_trace(probed(sd15, calls.append), **settings)
    samples = run(model)
    assert len(calls) == 4 + 2 * 2  # two of the four steps move
    assert [step.step for step in record.of(samples).steps] == [0, 1]
    once, _ = traced(sd15, dict(max_refinements=0))
    assert relative(samples, once) > 1e-3
    outside = with_trace(sd15, **{**settings, "travel_start": 0.9})[0]
    assert torch.equal(run(outside), once)


def test_enough_leaves_a_picture_alone_whose_words_are_seen(sd15):
    _, trace = traced(sd15)
    seen = float(trace.steps[0].before.min())
    model, record = with_trace(sd15, enough=0.0)
    samples = run(model)
    assert torch.equal(samples, run(sd15)) and "no effect" in record.of(samples).summary()
    _, moved = traced(sd15, dict(enough=seen + 0.01))
    assert moved.steps[0].size > 0


def test_boxes_cover_the_positions_that_they_cover():
    loss = AttentionLoss("inside", ("a",), boxes=((4, 8, 16, 16), (24, 0, 32, 4)))
    ((*_, region),) = terms_for([loss], torch.zeros(1, 4, 3, 4), pixels=8)
    assert region.tolist() == [[[0, 0, 0, 0.5], [0.5, 1, 0, 0], [0, 0, 0, 0]]]
    thin = AttentionLoss("inside", ("a",), boxes=((8, 8, 9, 9),))
    (term,) = terms_for([thin], torch.zeros(2, 4, 3, 4), pixels=8)
    assert term.cells((3, 4)).nonzero().tolist() == [[0, 5]]
    masks = torch.eye(2).repeat_interleave(4, 1)[:, None].expand(2, 6, 8)  # left half, right half
    (term,) = terms_for([AttentionLoss("inside", ("a",), mask=masks)], torch.zeros(3, 4, 3, 4), pixels=8)
    assert term.cells((1, 2)).tolist() == [[True, False], [False, True], [True, False]]


BAD = [
    ({"loss": "overlap", "words": "#2"}, 'overlap needs two subjects or more, and there is only "#2"'),
    ({"loss": "overlap", "words": "#2, #2"}, "overlap needs two subjects"),
    ({"loss": "size", "words": " ,"}, "no words are given"),
    ({"loss": "inside"}, "inside needs a place. Connect a mask or boxes to where"),
    ({"loss": "inside", "where": torch.zeros(1, 8, 8)}, "where is an empty mask"),
    ({"loss": "inside", "where": torch.full((1, 8, 8), torch.nan)}, r"not numbers \(NaN\)"),
    ({"loss": "inside", "where": {**BOX, "width": 0}}, "a box without a size"),
    ({"loss": "inside", "where": {**BOX, "width": float("nan")}}, "needs numbers x, y, width and height"),
    ({"loss": "inside", "where": "all"}, "not a mask or boxes"),
    ({"loss": "inside", "where": []}, "where has no boxes"),
    ({"loss": "size", "size": float("nan")}, "size is nan, not a number from 0.001 to 1.0"),
    ({"loss": "size", "weight": -1.0}, "weight is -1.0, not a number from 0.0 to 100.0"),
    ({"loss": "colour"}, "loss is 'colour', not one of missing subject, overlap, inside, size"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_bad_input_is_named_with_the_way_out(settings, message):
    with pytest.raises(ValueError, match=f"Attention Loss: .*{message}"):
        chain(settings)


def test_what_only_the_run_can_know_is_named_by_attend_and_excite(sd15):
    outside = chain({"loss": "inside", "where": {**BOX, "x": 150}})
    with pytest.raises(ValueError, match=r"\(150, 32\) to \(214, 128\) does not lie in the picture of 192 x 128"):
        run(with_trace(sd15, losses=outside)[0])
    with pytest.raises(ValueError, match="Attend-and-Excite: there is no token #99"):
        run(with_trace(sd15, losses=chain({"loss": "size", "words": "#99"}))[0])
    with pytest.raises(ValueError, match="Attend-and-Excite: no words are given"):
        run(with_trace(sd15, words="", losses=chain({"loss": "size", "weight": 0.0}))[0])
    with pytest.raises(ValueError, match="losses is a int, not losses of Attention Loss"):
        with_trace(sd15, losses=1)
