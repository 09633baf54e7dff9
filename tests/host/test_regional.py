"""Regional Prompts on UNets: against the host alone, against explicit softmax, and what it says of its input."""

from __future__ import annotations

import comfy.controlnet
import pytest
import torch
from host import test_conds, tiny
from host.regional_runs import LEFT, RIGHT, WHOLE, region, regional
from host.scfg_runs import probed, relative
from host.sega_runs import SIZE, run
from host.test_company import ALL_BLOCKS
from host.waits import per_evaluation

from semantic_guidance.guidance.regions import exclusive, prompt_shares, resample
from semantic_guidance.nodes.region_preview import SemanticGuidanceRegionPreview
from semantic_guidance.words.prompt import CONDITIONING_KEY, PromptWords, Word

SOFT = torch.linspace(0, 1, SIZE[1]).expand(1, *SIZE)
WORDS = PromptWords((Word("a", (1,)), Word("cat", (2,)), Word("red", (4,)), Word("balloon", (5,))), 77)


def worded(seed: int) -> list:
    return tiny.prompt(seed, **{CONDITIONING_KEY: WORDS})


@pytest.mark.identity
@pytest.mark.parametrize(("settings", "options"), [
    ([{"strength": 0.0}], {}), ([{"strength": 0.0}, {"strength": 0.0, "where": RIGHT}], {}),
    ([{}, {"where": RIGHT, "negative": tiny.prompt(5)}], {"start_percent": 0.6, "end_percent": 0.5}),
])
@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_with_nothing_to_do_the_result_is_the_hosts_alone(sd15, settings, options, cfg):
    assert torch.equal(regional(sd15, *settings, **options).run(cfg=cfg), run(sd15, cfg=cfg))


@pytest.mark.parametrize("cfg", [1.0, 7.5])
@pytest.mark.parametrize("settings", [
    [{"where": WHOLE}], [{"where": {"x": -8, "y": 0, "width": 200, "height": 64}}], [{}, {"prompt": 2, "where": WHOLE}],
])
def test_a_region_that_covers_everything_is_its_prompt_alone(sd15, settings, cfg):
    samples = regional(sd15, *settings, width=128, height=64).run(cfg=cfg)
    assert relative(samples, run(sd15, positive=tiny.prompt(2), cfg=cfg)) < tiny.EXACT
    assert relative(samples, run(sd15, cfg=cfg)) > 1e-2


def explicit(model, masks, strengths, negative: float | None = None):
    """The host with a positive prompt of 77 tokens for the base and for each region, and attention as in the papers.

    The negative prompt is repeated to that length, which changes nothing. negative: the strength of the last 77.
    """
    def attention(q, k, v, options):
        heads, chunks = options["n_heads"], options["cond_or_uncond"]
        rows = len(q) // len(chunks)
        grid = options["activations_shape"][-2:]
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        out = scores.softmax(-1) @ v
        places = resample(exclusive(masks)[:, 0], grid)
        shares = prompt_shares(places[:, None], strengths).flatten(2).to(q)  # [1 + R, 1, P]
        for chunk, number in enumerate(chunks):
            if number == 0:
                own = slice(chunk * rows, (chunk + 1) * rows)
                total = 0
                for n, share in enumerate(shares):
                    columns = list(range(77 * n, 77 * n + 77))
                    turned = torch.ones(k.shape[2]).to(q)
                    if negative is not None and n == len(shares) - 1:
                        columns += range(77 * n + 77, 77 * n + 154)
                        turned[77 * n + 77 :] = -negative
                    p = (scores[own][..., columns] + turned[columns].abs().log()).softmax(-1)
                    total = total + share[:, None, :, None] * (p @ (v[own] * turned.sign()[:, None])[:, :, columns])
                out[own] = total
        return out.transpose(1, 2).flatten(2)

    model = model.clone()
    for block in ALL_BLOCKS:
        model.set_model_attn2_replace(attention, *block)
    return model


@pytest.mark.parametrize("cfg", [1.0, 7.5])
@pytest.mark.parametrize(("masks", "strengths"), [
    ((LEFT, RIGHT), (1.0, 1.0)), ((LEFT, RIGHT), (0.7, 1.0)), ((SOFT, RIGHT), (1.0, 0.4)), ((0.5 * LEFT,), (1.0,)),
])
def test_equals_explicit_attention(sd15, masks, strengths, cfg):
    settings = [{"where": mask, "strength": s} for mask, s in zip(masks, strengths, strict=True)]
    joined = tiny.prompt(0)
    joined[0][0] = torch.cat([tiny.prompt(n)[0][0] for n in (0, *range(2, 2 + len(masks)))], dim=1)
    expected = run(explicit(sd15, masks, strengths), positive=joined, cfg=cfg)
    assert relative(regional(sd15, *settings).run(cfg=cfg), expected) < tiny.EXACT
    assert relative(run(sd15, cfg=cfg), expected) > 1e-3


@pytest.mark.parametrize("strength", [1.0, 0.5, 2.5])
def test_a_regions_negative_is_seen_with_its_values_turned_round(sd15, strength):
    every = PromptWords(tuple(Word(str(n), (n,)) for n in range(77)), 77)
    away = tiny.prompt(9, **{CONDITIONING_KEY: every})
    joined = tiny.prompt(0)
    joined[0][0] = torch.cat([tiny.prompt(n)[0][0] for n in (0, 2, 9)], dim=1)
    expected = run(explicit(sd15, (LEFT,), (1.0,), strength), positive=joined, cfg=1.0)
    samples = regional(sd15, {"negative": away, "negative_strength": strength}).run(cfg=1.0)
    assert relative(samples, expected) < tiny.EXACT
    assert relative(regional(sd15, {}).run(cfg=1.0), expected) > 1e-3


def test_a_negative_acts_with_its_words_alone_in_its_region(sd15):
    """Start, end and padding are left out; without strength, or without words, nothing is."""
    plain, turned = regional(sd15, {}), regional(sd15, {"negative": worded(9)})
    assert relative(turned.run(), plain.run()) > 1e-3
    assert torch.equal(regional(sd15, {"negative": worded(9), "negative_strength": 0.0}).run(), plain.run())
    without = tiny.prompt(9, **{CONDITIONING_KEY: PromptWords((), 77)})
    assert torch.equal(regional(sd15, {"negative": without}).run(), plain.run())


def uncond(model, **kwargs) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    run(probed(model, lambda args: seen.append(args["uncond_denoised"])), steps=1, **kwargs)
    return seen


@pytest.mark.parametrize("tokens", [77, 154])
def test_the_negative_prompt_is_the_hosts_alone(sd15, tokens):
    negative = tiny.prompt(1, tokens)
    changed = regional(sd15, {"negative": worded(9)}, {"where": RIGHT})
    ours = uncond(changed.model, positive=changed.positive, negative=negative)
    assert all(map(torch.equal, ours, uncond(sd15, negative=negative)))


def test_a_batch_is_its_singles_with_a_mask_for_each_image(sd15):
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    settings = {"where": torch.cat([LEFT, SOFT])}, {"where": RIGHT, "negative": worded(9)}
    made = regional(sd15, *settings)
    both = made.run(batch=2, noise=noise)
    assert torch.equal(made.run(batch=2, noise=noise), both)
    for image, mask in enumerate((LEFT, SOFT)):
        alone = regional(sd15, {"where": mask}, settings[1]).run(noise=noise[image : image + 1])
        assert relative(both[image : image + 1], alone) < tiny.EXACT


def test_a_controlnet_sees_the_base_prompt_alone(sd15):
    seen = []

    class Control(comfy.controlnet.ControlBase):
        def get_control(self, x, timestep, cond, batched, options):
            seen.append(cond["c_crossattn"].shape[1])

    controlled = tiny.prompt(0)
    controlled[0][1]["control"] = Control()
    expected = regional(sd15).run()
    assert relative(regional(sd15, base=controlled).run(), expected) < tiny.EXACT  # the prompts are in calls apart
    assert seen and set(seen) == {77}


def test_words_of_the_base_prompt_are_a_place_from_the_second_step_on(sd15, caplog):
    caplog.set_level("INFO")
    every = PromptWords(tuple(Word(f"w{n}", (n,)) for n in range(77)), 77)
    base = tiny.prompt(0, **{CONDITIONING_KEY: every})
    words = ", ".join(f"w{n}" for n in range(77))
    made = regional(sd15, {"words": words, "where": None}, base=base)
    first, plain = made.run(steps=1), run(sd15, steps=1)
    assert relative(first, plain) < tiny.EXACT
    samples = made.run(steps=3)
    assert relative(samples, run(sd15, steps=3)) > 1e-3
    shares = [step.owner.float().mean().item() for step in made.record.of(samples).steps]
    assert shares == [0.0, 1.0, 1.0]  # all words together are everywhere
    assert torch.equal(made.run(steps=3), samples)
    half = regional(sd15, {"words": words}, base=base)
    owner = half.record.of(half.run(steps=3)).steps[-1].owner
    assert torch.equal(owner.bool(), LEFT.bool())  # where both say so


@pytest.mark.parametrize("snap", ["inside", "free"])
def test_boxes_snap_to_their_own_words_after_the_first_steps(sd15, snap, caplog):
    made = regional(sd15, {"prompt": worded(2), "where": {"x": 32, "y": 16, "width": 64, "height": 32}}, snap=snap,
                    width=128, height=64)
    samples = made.run(steps=5)
    owners = [step.owner[0].bool() for step in made.record.of(samples).steps]
    box = torch.zeros(SIZE, dtype=torch.bool)
    box[2:6, 4:12] = True
    assert torch.equal(owners[0], box)
    assert all(torch.equal(owner, owners[1]) for owner in owners[2:])
    assert owners[1].any() and not torch.equal(owners[1], box)
    if snap == "inside":
        assert not (owners[1] & ~box).any()
    else:
        grown = torch.zeros(SIZE, dtype=torch.bool)
        grown[0:8, 2:14] = True
        assert not (owners[1] & ~grown).any() and (owners[1] & ~box).any()
    assert torch.equal(made.run(steps=5), samples)


def test_the_record_and_the_log_say_where_each_prompt_acted(sd15, caplog):
    caplog.set_level("INFO")
    made = regional(sd15, {"prompt": worded(2)}, {"where": RIGHT, "strength": 0.4})
    samples = made.run(steps=2)
    assert ("Regional Prompts: base prompt 30 %, a cat red balloon 50 %, region 2 20 % of the picture; acted in 16 of "
            "16 layers, steps 1-2.") in caplog.text
    regions = made.record.of(samples)
    assert [region.text for region in regions.regions] == ["base prompt", "a cat red balloon", "region 2"]
    assert torch.equal(regions.steps[0].owner, (LEFT + 2 * RIGHT).to(torch.int16))
    assert torch.allclose(regions.steps[0].rate_map.float(), LEFT + 0.4 * RIGHT, atol=1e-3)
    shown = SemanticGuidanceRegionPreview.execute(made.record, {"samples": samples}).result
    assert shown[1].shape[0] == 2 and torch.equal(shown[1].sum(dim=0), torch.ones_like(shown[1][0]))
    with pytest.raises(ValueError, match="Region Preview: the latent is not one that a sampler with this Regional"):
        SemanticGuidanceRegionPreview.execute(made.record, {"samples": samples + 1})


SMALL = torch.zeros(1, *SIZE)
SMALL[..., :2, :4] = 1


@pytest.mark.parametrize(("settings", "message"), [
    ([{}, {"where": LEFT}], "region 2 has no place: its mask is empty, or the regions before it"),
    ([{"where": SMALL}], "region 1 covers 0.1 cells of the 1 x 2 of this model's coarsest attention"),
    ([{"where": WHOLE}], "the regions cover the whole picture with strength 1, so that nothing reads the base prompt"),
])
def test_places_that_can_hardly_act_are_told(sd15, settings, message, caplog):
    samples = regional(sd15, *settings).run(steps=1)
    assert samples.isfinite().all()
    assert f"Regional Prompts: {message}" in caplog.text


@pytest.mark.parametrize(("settings", "message"), [
    ({"where": None}, "Region: it has no place. Connect where, or name words of the base prompt"),
    ({"where": torch.full((1, 8, 8), torch.nan)}, "Region: where has values that are not numbers"),
    ({"where": 3}, "Region: where is a int, not a mask or boxes"),
    ({"where": []}, "Region: where has no boxes. Draw at least one"),
    ({"where": {"x": 1, "y": 2, "width": 3}}, "Region: where has a box that is none"),
    ({"where": {"x": 1, "y": 2, "width": 0, "height": 9}}, "Region: where has a box without a size"),
    ({"where": [[{"x": 1, "y": 1, "width": 1, "height": 1}], []]}, "Region: where has boxes for 2 pictures"),
    ({"where": [{"x": 0, "y": 0, "width": 9, "height": 9}], "box": 2}, "Region: box is 2, but where has 1"),
    ({"prompt": tiny.prompt(2) + tiny.prompt(3)}, "Region: conditioning has 2 prompts, but a region takes one"),
    ({"strength": float("nan")}, "Region: strength is nan"),
    ({"where": {"x": 2000, "y": 0, "width": 9, "height": 9}}, "Regional Prompts: region 1 cannot act: its box .*side"),
    ({"words": "giraffe"}, 'Regional Prompts: cannot find "giraffe"'),
    ({"prompt": [[None, {}]]}, "Regional Prompts: the prompt of region 1 has no text"),
    ({"prompt": [[torch.ones(1, 77, 32), {}]]}, "Regional Prompts: the conditioning has 64 features a token"),
])
def test_bad_input_is_named_with_the_way_out(sd15, settings, message):
    with pytest.raises(ValueError, match=message):
        regional(sd15, settings).run(steps=1)


def test_what_a_regions_conditioning_says_beside_its_text_is_told(sd15, caplog):
    masked = test_conds.masked(test_conds.within(tiny.prompt(2), 0.1, 0.2), LEFT)
    samples = regional(sd15, {"prompt": masked}).run(steps=1)
    assert torch.equal(samples, regional(sd15, {}).run(steps=1))
    for said in ("a mask", "a time range"):
        assert f"Regional Prompts: the conditioning of region 1 has {said}, which a region does not use" in caplog.text


def test_conditioning_that_is_not_sampled_or_has_regions_already_is_refused(sd15):
    made = regional(sd15)
    with pytest.raises(ValueError, match="Regional Prompts: no prompt of this run comes from this node. Connect the"):
        run(made.model, steps=1)
    with pytest.raises(ValueError, match="Regional Prompts: this conditioning has regions already. Chain all"):
        regional(made.model, base=made.positive)


def test_elements_and_boxes_are_places(sd15):
    """As Create Bounding Boxes gives them: elements in thousandths [top, left, bottom, right], boxes in pixels."""
    boxes = [[{"x": 0, "y": 0, "width": 64, "height": 64}, {"x": 64, "y": 0, "width": 64, "height": 64}]]
    elements = [{"type": "obj", "bbox": [0, 0, 1000, 500], "desc": "cat"}, {"bbox": [0, 500, 1000, 1000]}]
    expected = regional(sd15).run(steps=1)
    for drawn in (boxes, elements):
        made = regional(sd15, {"where": drawn, "box": 1}, {"where": drawn, "box": 2}, width=128, height=64)
        assert torch.equal(made.run(steps=1), expected)
        both = regional(sd15, {"where": drawn}, width=128, height=64).run(steps=1)
        assert torch.equal(both, regional(sd15, {"where": WHOLE}).run(steps=1))


@pytest.mark.parametrize("settings", [{}, {"negative": worded(9)}])
def test_it_waits_once_a_step(sd15, settings):
    """After the first, in which it reads masks that are on the CPU."""
    made = regional(sd15, settings)
    model, found = per_evaluation(made.model)
    made._replace(model=model).run(batch=2, steps=3)
    assert [sum(waits.values()) for waits in found[1:]] == [1, 1], found


def test_region_chains_hold_what_they_were_given():
    first = region(2, strength=0.5)
    both = region(3, first, where=RIGHT)
    assert both[:1] == first and len(both) == 2 and isinstance(both, tuple)
