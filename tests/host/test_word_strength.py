"""Word Strength: what it computes, and that it changes nothing else."""

from __future__ import annotations

import nodes as host_nodes
import pytest
import torch
from comfy_api.input import LinearCurve
from host import sega_runs, test_conds, tiny, tiny_clip
from host.edits import overridden
from host.scfg_runs import probed, relative
from host.sega_runs import SIZE
from host.strength_runs import strength
from host.waits import per_evaluation

from semantic_guidance.nodes.attention_curves import SemanticGuidanceAttentionCurves
from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.words.prompt import CONDITIONING_KEY

LEFT = torch.zeros(1, *SIZE)
LEFT[..., : SIZE[1] // 2] = 1
CAT = 2  # its column
ONE = LinearCurve([(0.0, 1.0), (1.0, 1.0)])
TEXT = "a cat and a red balloon"


def run(model, *args, **kwargs) -> torch.Tensor:
    return sega_runs.run(model, *args, **{"steps": 1, **kwargs})


@pytest.fixture(scope="module")
def clip():
    return tiny_clip.clip("sd1")


@pytest.fixture(scope="module")
def encode(clip):
    def encode(text: str) -> list:
        with torch.inference_mode():
            return SemanticGuidancePrompt.execute(clip, text).result[0]

    return encode


def first(model, conditioning, **options) -> dict:
    """What the host's post-CFG functions get at the first step."""
    seen = []
    run(probed(model, lambda args: seen.append(dict(args))), positive=conditioning, **options)
    return seen[0]


def cond(model, conditioning) -> torch.Tensor:
    return first(model, conditioning)["cond_denoised"]


class TestText:
    def test_at_0_the_prompt_is_the_one_with_fillers(self, sd15, clip, encode):
        model, weak, record = strength(sd15, encode(TEXT), "cat, red balloon", 0.0, clip=clip)
        filled = encode("a a and a a a")
        assert torch.equal(weak[0][0], filled[0][0])
        samples = run(model, positive=weak)
        assert torch.equal(samples, run(sd15, positive=filled))
        assert torch.equal(samples, run(sd15, positive=weak))  # the conditioning says it all
        assert record.of(samples).summary() == "cat, red balloon at 0 (text), step 1 of 1."

    def test_between_it_is_the_part_that_the_word_makes(self, sd15, clip, encode):
        whole, filled = encode(TEXT), encode("a a and a red balloon")
        (_, ((weak, extra),), _) = strength(sd15, whole, "cat", 0.25, clip=clip)
        assert relative(weak, filled[0][0] + 0.25 * (whole[0][0] - filled[0][0])) < 1e-6
        pooled = filled[0][1]["pooled_output"] + 0.25 * (whole[0][1]["pooled_output"] - filled[0][1]["pooled_output"])
        assert relative(extra["pooled_output"], pooled) < 1e-6

    def test_every_place_of_a_word_and_no_filler(self, sd15, clip, encode):
        whole = encode("a cat and a (cat:1.3)")
        assert torch.equal(strength(sd15, whole, "cat", 0.0, clip=clip)[1][0][0], encode("a a and a a")[0][0])
        assert torch.equal(strength(sd15, whole, "a", 0.0, clip=clip)[1][0][0], whole[0][0])

    def test_nodes_for_other_words_follow_each_other(self, sd15, clip, encode):
        model, weak, _ = strength(sd15, encode(TEXT), "cat", 0.0, clip=clip)
        model, weaker, _ = strength(model, weak, "red", 0.0, clip=clip)
        assert torch.equal(weaker[0][0], encode("a a and a a balloon")[0][0])
        assert torch.equal(run(model, positive=weaker), run(sd15, positive=weaker))

    def test_other_prompts_behind_it_stay(self, sd15, clip, encode):
        (joined,) = host_nodes.ConditioningConcat().concat(encode(TEXT), encode("a dog"))
        _, weak, _ = strength(sd15, joined, "cat", 0.0, clip=clip)
        assert torch.equal(weak[0][0][:, :77], encode("a a and a red balloon")[0][0])
        assert torch.equal(weak[0][0][:, 77:], joined[0][0][:, 77:])

    @pytest.mark.parametrize("settings", [{"curve": ONE}, {"mask": torch.ones(1, *SIZE)}])
    def test_in_the_run_it_is_the_same(self, sd15, clip, encode, settings):
        _, weak, _ = strength(sd15, encode(TEXT), "cat", 0.3, clip=clip)
        model, whole, _ = strength(sd15, encode(TEXT), "cat", 0.3, clip=clip, **settings)
        assert torch.equal(whole[0][0], encode(TEXT)[0][0])
        assert relative(run(model, positive=whole), run(sd15, positive=weak)) < tiny.EXACT


@pytest.mark.identity
@pytest.mark.parametrize(("value", "settings"), [
    (1.0, {}), (3.0, {"start_percent": 0.6, "end_percent": 0.5}), (-1.0, {"start_percent": 0.6, "end_percent": 0.5}),
    (2.5, {"curve": LinearCurve([(0.0, 0.0), (1.0, 0.0)])}), (3.0, {"mask": torch.zeros(1, *SIZE)}),
])
def test_with_nothing_to_do_the_result_is_the_hosts_alone(sd15, clip, encode, value, settings):
    model, conditioning, _ = strength(sd15, encode(TEXT), "cat", value, clip=clip, **settings)
    assert torch.equal(run(model, positive=conditioning), run(sd15, positive=encode(TEXT)))


class TestMore:
    @pytest.mark.parametrize(("words", "columns"), [("cat, red balloon", [2, 5, 6]), ("a", [1, 4])])
    def test_a_whole_number_is_the_words_so_often_in_the_prompt(self, sd15, encode, words, columns):
        ((text, extra),) = encode(TEXT)
        often = [[torch.cat([text, text[:, columns], text[:, columns]], dim=1), extra]]
        model, conditioning, record = strength(sd15, encode(TEXT), words, 3.0)
        samples = run(model, positive=conditioning)
        assert relative(samples, run(sd15, positive=often)) < tiny.EXACT
        assert record.of(samples).paths == ("repeated keys",)
        assert record.of(samples).acted == record.of(samples).layers == 16

    def test_a_mask_holds_it_to_a_place(self, sd15, encode):
        everywhere, left, right = (
            strength(sd15, encode(TEXT), "cat", 3.0, **({} if mask is None else {"mask": mask}))
            for mask in (None, LEFT, 1 - LEFT)
        )
        both = strength(*left[:2], "cat", 3.0, mask=1 - LEFT)
        expected = run(everywhere[0], positive=everywhere[1])
        assert relative(run(both[0], positive=both[1]), expected) < tiny.EXACT
        samples = [run(model, positive=conditioning) for model, conditioning, _ in (left, right)]
        assert relative(samples[0], samples[1]) > 1e-3 < relative(samples[0], expected)

    def test_curve_and_range_say_when(self, sd15, encode):
        curve = LinearCurve([(0.0, 1.0), (1.0, 0.0)])
        model, conditioning, record = strength(sd15, encode(TEXT), "cat", 3.0, curve=curve, end_percent=0.7)
        strengths = [step.strength for step in record.of(run(model, positive=conditioning, steps=5)).steps]
        assert strengths == pytest.approx([3.0, 2.5, 2.0, 1.0, 1.0], abs=0.01)

    def test_nodes_for_other_words_act_together(self, sd15, encode):
        ((text, extra),) = encode(TEXT)
        often = [[torch.cat([text, text[:, [2, 2, 5]]], dim=1), extra]]
        one = strength(*strength(sd15, encode(TEXT), "cat", 3.0)[:2], "red", 2.0)
        other = strength(*strength(sd15, encode(TEXT), "red", 2.0)[:2], "cat", 3.0)
        for model, conditioning, _ in (one, other):
            assert relative(run(model, positive=conditioning), run(sd15, positive=often)) < tiny.EXACT


class TestBelowZero:
    @pytest.mark.parametrize("settings", [{}, {"mask": torch.ones(1, *SIZE)}])
    def test_the_word_stands_beside_the_prompt_without_it_and_its_value_is_turned_round(
        self, sd15, clip, encode, settings
    ):
        whole, filled = encode(TEXT), encode("a a and a red balloon")
        beside = [[torch.cat([filled[0][0], whole[0][0][:, [CAT]]], dim=1), filled[0][1]]]

        def turned(func, q, k, v, *args, **kwargs):
            if k.shape[1] == 78:
                v = torch.cat([v[:, :-1], -v[:, -1:]], dim=1)
            return func(q, k, v, *args, **kwargs)

        model, conditioning, record = strength(sd15, whole, "cat", -1.0, clip=clip, **settings)
        samples = run(model, positive=conditioning)
        assert relative(samples, run(overridden(sd15, turned), positive=beside)) < tiny.EXACT
        assert record.of(samples).paths[0] == "text"

    def test_it_goes_on_from_0(self, sd15, clip, encode):
        zero, little, one = (
            cond(*strength(sd15, encode(TEXT), "cat", value, clip=clip)[:2]) for value in (0.0, -1e-4, -1.0)
        )
        assert 0 < (little - zero).abs().max() < 1e-3 * (one - zero).abs().max()


@pytest.mark.parametrize(("value", "settings"), [
    (2.5, {}), (3.0, {"mask": LEFT}), (0.5, {"mask": LEFT}), (0.5, {"curve": ONE}), (-1.0, {}),
])
class TestEverywhere:
    def made(self, sd15, clip, encode, value, settings) -> tuple:
        return strength(sd15, encode(TEXT), "cat, red", value, clip=clip, **settings)[:2]

    def test_the_negative_prompt_is_what_it_was(self, sd15, clip, encode, value, settings):
        model, conditioning = self.made(sd15, clip, encode, value, settings)
        negative = encode("a dog")
        ours, plain = first(model, conditioning, negative=negative), first(sd15, encode(TEXT), negative=negative)
        assert torch.equal(ours["uncond_denoised"], plain["uncond_denoised"])
        assert relative(ours["cond_denoised"], plain["cond_denoised"]) > 1e-3

    def test_a_batch_is_its_singles(self, sd15, clip, encode, value, settings):
        model, conditioning = self.made(sd15, clip, encode, value, settings)
        noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
        both = run(model, positive=conditioning, batch=2, noise=noise)
        single = run(model, positive=conditioning, noise=noise[1:])
        assert relative(both[1:], single) < tiny.EXACT

    def test_prompts_in_calls_of_their_own_areas_and_longer_negatives(self, monkeypatch, sd15, clip, encode, value,
                                                                       settings):
        model, conditioning = self.made(sd15, clip, encode, value, settings)
        options = dict(
            positive=tiny.prompt(3) + test_conds.in_area(conditioning, 8, 8, 0, 4, 4.0), negative=tiny.prompt(1, 154)
        )
        joint = run(model, **options)
        assert relative(run(sd15, **options), joint) > 1e-4
        assert relative(run(test_conds.separately(monkeypatch, model), **options), joint) < tiny.EXACT

    def test_it_waits_once_a_step(self, sd15, clip, encode, value, settings):
        model, conditioning = self.made(sd15, clip, encode, value, settings)
        model, found = per_evaluation(model)
        run(model, positive=conditioning, steps=2)
        assert sum(found[1].values()) <= 1, found  # the first says which queries are inside of a mask


def test_images_of_a_batch_have_masks_of_their_own(sd15, encode):
    masks = torch.cat([LEFT, 1 - LEFT])
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    model, conditioning, _ = strength(sd15, encode(TEXT), "cat", 3.0, mask=masks)
    both = run(model, positive=conditioning, batch=2, noise=noise)
    for image in range(2):
        alone = strength(sd15, encode(TEXT), "cat", 3.0, mask=masks[image : image + 1])
        single = run(alone[0], positive=alone[1], noise=noise[image : image + 1])
        assert relative(both[image : image + 1], single) < tiny.EXACT


def test_curves_show_peaks_and_a_strength_that_changes(sd15, encode):
    curve = LinearCurve([(0.0, 1.0), (1.0, 0.0)])
    made = [strength(sd15, encode(TEXT), "cat, red", 3.0), strength(sd15, encode(TEXT), "cat, red", 3.0, curve=curve)]
    heights = []
    for model, conditioning, record in made:
        samples = run(model, positive=conditioning, batch=2, steps=3)
        peaks = record.of(samples).peaks
        assert peaks.shape == (3, 2, 2) and 0 < peaks[:2].min() <= peaks[:2].max() < 1
        curves, maps = SemanticGuidanceAttentionCurves.execute(record, {"samples": samples}).result
        assert len(curves) == 2 and len(maps) == 4
        heights.append(curves.shape[1])
    assert heights[1] > heights[0]  # one more curve


def test_curves_say_that_attention_was_not_read(sd15, clip, encode):
    model, conditioning, record = strength(sd15, encode(TEXT), "cat", 0.5, clip=clip)
    samples = run(model, positive=conditioning)
    assert record.of(samples).peaks.isnan().all()
    curves, maps = SemanticGuidanceAttentionCurves.execute(record, {"samples": samples}).result
    assert len(curves) == len(maps) == 1


class TestMessages:
    @pytest.mark.parametrize(("words", "value", "settings", "message"), [
        ("cat, giraffe", 2.0, {}, '"giraffe" is not in the prompt. Its words are: a, cat, and, red, balloon'),
        ("", 2.0, {}, "no words are given"),
        ("cat", 0.5, {"clip": None}, "strength is 0.5, and below 1 it needs the text encoder. Connect clip"),
        ("cat", float("nan"), {}, "strength is nan, not a number from -3.0 to 10.0"),
        ("cat", 2.0, {"mask": torch.full((1, 8, 8), torch.nan)}, "mask has values that are not numbers"),
        ("cat", 2.0, {"curve": []}, "curve has no points"),
    ])
    def test_of_the_node(self, sd15, clip, encode, words, value, settings, message):
        with pytest.raises(ValueError, match=f"Word Strength: {message}"):
            strength(sd15, encode(TEXT), words, value, **{"clip": clip, **settings})

    def test_a_prompt_of_another_node_or_encoder(self, sd15, clip, encode):
        ((text, extra),) = encode(TEXT)
        plain = [[text, {key: value for key, value in extra.items() if key != CONDITIONING_KEY}]]
        with pytest.raises(ValueError, match=r"Word Strength: strength is 0, .* encoded without Prompt with Words"):
            strength(sd15, plain, "#2", 0.0, clip=clip)
        with pytest.raises(ValueError, match="Word Strength: clip does not encode the prompt to this conditioning"):
            strength(sd15, [[2 * text, extra]], "cat", 0.5, clip=clip)

    def test_a_prompt_that_is_not_the_one_sampled(self, sd15, encode):
        model, _, _ = strength(sd15, encode(TEXT), "cat")
        with pytest.raises(ValueError, match=r"Word Strength: the prompt that is sampled is not .* Connect the cond"):
            run(model, positive=encode(TEXT))

    def test_negpip(self, sd15, encode):
        model, conditioning, _ = strength(sd15, encode(TEXT), "cat")
        model.model_options["ppm_negpip"] = True
        with pytest.raises(ValueError, match=r"Word Strength: NegPip \(ppm\) is on this model"):
            run(model, positive=conditioning)

    def test_attention_that_other_nodes_replace(self, sd15, clip, encode, caplog):
        def replaced(model, blocks):
            for block in blocks:
                model.set_model_attn2_replace(lambda q, k, v, options: q, *block)
            return model

        blocks = [("input", n) for n in (1, 2, 4, 5, 7, 8)] + [("middle", 0)] + [("output", n) for n in range(3, 12)]
        model, conditioning, record = strength(sd15, encode(TEXT), "cat", -1.0, clip=clip)
        samples = run(replaced(model.clone(), blocks[:6]), positive=conditioning)
        assert record.of(samples).acted == 10
        assert "Word Strength: acts in 10 of 16 layers" in caplog.text
        with pytest.raises(ValueError, match="Word Strength: no layer's attention can be changed"):
            run(replaced(model.clone(), blocks), positive=conditioning)

    def test_two_nodes_that_join_texts(self, sd15, clip, encode):
        model, conditioning, _ = strength(sd15, encode(TEXT), "cat", -1.0, clip=clip)
        model, conditioning, _ = strength(model, conditioning, "red", 0.5, clip=clip, mask=LEFT)
        with pytest.raises(ValueError, match="Word Strength: another node joins prompts in this model"):
            run(model, positive=conditioning)
