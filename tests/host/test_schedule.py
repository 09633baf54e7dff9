"""Guidance Schedule against the papers' formulas and against the host alone."""

from __future__ import annotations

import pytest
import torch
from comfy_api.input import LinearCurve, MonotoneCubicCurve
from host import scfg_runs, tiny
from host.scfg_runs import probed, relative
from host.schedule_runs import scheduled
from host.sega_runs import SIZE, prediction_type, run
from host.waits import per_evaluation

from semantic_guidance.guidance.schedules import SHAPES, powered_cosine
from semantic_guidance.guidance.smoothing import smooth
from semantic_guidance.sampling.percent import Progress, percent_at
from semantic_guidance.words.factors import WordFactor, word_factors
from semantic_guidance.words.prompt import CONDITIONING_KEY, PromptWords, Word

CFG = 7.5
LEFT = torch.zeros(1, *SIZE)
LEFT[..., : SIZE[1] // 2] = 1
WORDS = PromptWords((Word("a", (1,)), Word("cat", (2,)), Word("red", (4,)), Word("balloon", (5,))), 77)


def worded(seed: int = 0) -> list:
    return tiny.prompt(seed, **{CONDITIONING_KEY: WORDS})


def predictions(model, **kwargs) -> list[dict]:
    """The arguments of the host's post-CFG functions at each evaluation, after the model's own."""
    seen: list[dict] = []
    run(probed(model, seen.append), **kwargs)
    return seen


def plain(seen: dict, weight: float) -> torch.Tensor:
    cond, uncond = seen["cond_denoised"], seen["uncond_denoised"]
    return uncond + (1 + weight) * (cond - uncond)


@pytest.mark.parametrize("settings", [
    {"preset": "constant"},
    {"preset": "linear", "start_percent": 0.6, "end_percent": 0.6},
    {"preset": "constant", "words": "cat: 1, red balloon"},
    {"preset": "linear", "mask": torch.zeros(1, 8, 8)},
    {"preset": "V", "curve": LinearCurve([(0.0, 1.0), (1.0, 1.0)])},
    {"preset": "window"},
])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_with_nothing_to_do_the_result_is_the_hosts_alone(sd15, settings, sampler):
    options = dict(positive=worded(), sampler=sampler)
    assert torch.equal(run(scheduled(sd15, **settings), **options), run(sd15, **options))


EXPECTED = {
    **{name: ({}, shape) for name, shape in SHAPES.items()},
    "powered cosine": ({"power": 0.5}, lambda progress: powered_cosine(progress, 0.5)),
    "window": ({"start_percent": 0.2, "end_percent": 0.7}, lambda progress: float(0.2 <= progress <= 0.7)),
}


@pytest.mark.parametrize("preset", EXPECTED)
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_preset_is_its_formula(sd15, preset, sampler):
    settings, shape = EXPECTED[preset]
    seen = predictions(scheduled(sd15, preset=preset, **settings), steps=4, sampler=sampler)
    sampling = sd15.get_model_object("model_sampling")
    progress = [percent_at(sampling, float(args["sigma"])) for args in seen]
    assert len(set(progress)) == 4 and progress[0] < 0.01
    for args, share in zip(seen, progress, strict=True):
        assert relative(args["denoised"], plain(args, (CFG - 1) * shape(share))) < 1e-5


def test_factor_clamp_and_curve(sd15):
    curve = MonotoneCubicCurve([(0.0, 0.2), (0.5, 1.0), (1.0, 0.4)])
    for settings, weight in [
        ({"preset": "constant", "factor": 0.5}, lambda progress: 0.5 * (CFG - 1)),
        ({"preset": "linear", "clamp": 4.0}, lambda progress: max(4.0, 2 * progress * (CFG - 1))),
        ({"preset": "window", "clamp": 2.0, "end_percent": 0.5}, lambda share: CFG - 1 if share <= 0.5 else 2.0),
        ({"preset": "V", "factor": 2.0, "curve": curve}, lambda progress: 2 * curve.interp(progress) * (CFG - 1)),
    ]:
        for args in predictions(scheduled(sd15, **settings), steps=3):
            progress = percent_at(sd15.get_model_object("model_sampling"), float(args["sigma"]))
            assert relative(args["denoised"], plain(args, weight(progress))) < 1e-5


@pytest.mark.parametrize("kind", ["epsilon", "velocity"])
@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_cfgpp_is_the_hosts_own_sampler(sd15, kind, sampler):
    model = prediction_type(sd15, kind)
    expected = run(model, sampler="euler_cfg_pp", cfg=0.6, steps=4)
    ours = run(scheduled(model, preset="CFG++", cfgpp_lambda=0.6), sampler=sampler, cfg=5.0, steps=4)
    assert relative(ours, expected) < 1e-4
    assert relative(run(model, steps=4, cfg=5.0), expected) > 1e-2


def test_cfgpp_says_before_the_run_which_samplers_it_is_exact_with(sd15, caplog):
    model = scheduled(sd15, preset="CFG++")
    run(model)
    assert not caplog.text
    run(model, sampler="dpmpp_2m")
    assert "With dpmpp_2m the same scales are used" in caplog.text


def test_cfgpp_refuses_sigmas_that_rise(sd15):
    with pytest.raises(ValueError, match="Guidance Schedule: CFG\\+\\+ needs sigmas that fall.*another preset"):
        run(scheduled(sd15, preset="CFG++"), sigmas=torch.tensor([0.1, 2.0, 5.0]))


def test_inside_a_mask_only(sd15):
    (masked,), (everywhere,) = (
        predictions(scheduled(sd15, preset="constant", factor=2.0, mask=mask), steps=1) for mask in (LEFT, None)
    )
    inside = LEFT[:, None].bool().expand_as(masked["denoised"])
    assert torch.equal(masked["denoised"][~inside], plain(masked, CFG - 1)[~inside])
    assert torch.equal(masked["denoised"][inside], everywhere["denoised"][inside])


@pytest.fixture(scope="module")
def owned(sd15) -> torch.Tensor:
    """The token that owns each position at the first step, as S-CFG records it, [1, *SIZE]; some own none."""
    model, record = scfg_runs.with_regions(sd15, strength=0.0)
    regions = record.of(run(model, steps=1))
    return torch.tensor([region.column for region in regions.regions])[regions.steps[0].owner.long()]


def test_words_are_changed_where_scfg_has_their_regions(sd15, owned):
    """Blurred as the rate of S-CFG is, with the factor of each word."""
    one, other, *_ = owned.unique().tolist()
    (args,) = predictions(scheduled(sd15, preset="constant", factor=0.5, words=f"#{one}, #{other}: 3"), steps=1)
    factor = torch.where(owned == one, 0.5, torch.where(owned == other, 3.0, 1.0))[:, None]
    direction = args["cond_denoised"] - args["uncond_denoised"]
    expected = plain(args, CFG - 1) + (CFG - 1) * smooth(factor - 1) * direction
    assert relative(args["denoised"], expected) < 1e-5


def test_words_inside_a_mask_act_where_both_say_so(sd15, owned):
    settings = dict(preset="constant", words=", ".join(f"#{column}: 3" for column in owned.unique().tolist()))
    (both,), (words,) = (predictions(scheduled(sd15, mask=mask, **settings), steps=1) for mask in (LEFT, None))
    inside = LEFT[:, None].bool().expand_as(both["denoised"])
    assert torch.equal(both["denoised"][inside], words["denoised"][inside])
    assert torch.equal(both["denoised"][~inside], plain(both, CFG - 1)[~inside])


def test_a_word_without_a_place_is_told(sd15, owned, caplog):
    seen = owned.unique().tolist()
    unseen = next(column for column in range(77) if column not in seen)
    run(scheduled(sd15, preset="constant", words=f"#{seen[0]}: 2, #{unseen}: 2"), steps=1)
    assert f'Guidance Schedule: the model saw "#{unseen}" nowhere' in caplog.text
    assert f'"#{seen[0]}"' not in caplog.text


def test_cfg_1_equals_plain_and_says_why(sd15, caplog):
    assert torch.equal(run(scheduled(sd15), cfg=1.0), run(sd15, cfg=1.0))
    assert "Guidance Schedule: cfg is 1, so there is no guidance to schedule" in caplog.text


@pytest.mark.parametrize(("settings", "message"), [
    ({"words": "cat, giraffe: 2"}, '"giraffe" is not in the prompt. Its words are: a, cat, red, balloon'),
    ({"words": "cat: 2, cat"}, '"cat" and "cat" name the same word'),
    ({"words": "cat: much"}, '"cat: much" is not a word with a factor'),
    ({"factor": float("nan")}, "factor is nan, not a number from 0.0 to 10.0"),
    ({"cfgpp_lambda": float("inf")}, "cfgpp_lambda is inf, not a number from 0.0 to 2.0"),
    ({"preset": "steep"}, "preset is 'steep', not one of constant, linear"),
    ({"mask": torch.full((1, 8, 8), torch.nan)}, "mask has values that are not numbers"),
    ({"curve": []}, "curve has no points. Draw at least one in the Curve Editor"),
    ({"curve": {"points": [[0.5, 1], [0.2, 1]]}}, "curve has points that are not in the order of their x. Sort them"),
    ({"curve": [[0, 1], [1, float("nan")]]}, "curve is a list, not a curve"),
    ({"curve": [[0, 1], [1, -1]]}, "curve has points outside"),
    ({"curve": "rising"}, "curve is a str, not a curve"),
])
def test_bad_input_is_named_with_the_way_out(sd15, settings, message):
    with pytest.raises(ValueError, match=f"Guidance Schedule.*: {message}"):
        run(scheduled(sd15, **settings), positive=worded())


def test_points_from_an_api_graph_are_a_curve(sd15):
    points = [[0.0, 0.0], [1.0, 2.0]]
    curve = {"points": points, "interpolation": "linear"}
    assert relative(run(scheduled(sd15, curve=curve)), run(scheduled(sd15, preset="linear"))) < 1e-5


@pytest.mark.parametrize("settings", [{}, {"preset": "CFG++"}, {"words": "#1, #2: 2", "mask": LEFT}])
def test_it_waits_once_a_step(sd15, settings):
    model, found = per_evaluation(scheduled(sd15, **settings))
    run(model, batch=2, steps=3)
    assert [sum(waits.values()) for waits in found] == [1, 1, 1], found


def test_progress_is_the_inverse_of_the_hosts_percents(sd15):
    for model in (sd15, prediction_type(sd15, "velocity")):
        sampling = model.get_model_object("model_sampling")
        progress = Progress(sampling)
        for percent in (0.001, 0.3, 0.77):
            assert progress.at(sampling.percent_to_sigma(percent)) == pytest.approx(percent, abs=1e-5)


def test_words_have_factors_of_their_own_or_none():
    assert word_factors(" face, red balloon: 1.5\n#5:0,") == (
        WordFactor("face", None), WordFactor("red balloon", 1.5), WordFactor("#5", 0.0)
    )
    assert word_factors("") == ()


@pytest.mark.parametrize("text", ["hands: much", "hands:", ": 2", "hands: nan", "hands: inf", "hands: -1", "a: 10.1"])
def test_what_is_no_factor_is_named_with_the_way_out(text):
    with pytest.raises(ValueError, match=rf'"{text}" is not a word with a factor. Write .*hands: 1.5, sky: 0.7'):
        word_factors(text)
