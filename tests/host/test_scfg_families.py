"""S-CFG on a tiny model of every transformer family: what it computes, and that nothing else about a run changes it."""

from __future__ import annotations

import logging

import comfy.conds
import comfy_extras.nodes_context_windows as context_windows
import comfy_extras.nodes_easycache as easycache
import folder_paths
import nodes as host_nodes
import pytest
import torch
from host import tiny_dit
from host.naive_scfg import NaiveSCFG
from host.scfg_runs import probed, relative, with_regions, with_scfg
from host.waits import per_evaluation

from semantic_guidance.attention_hooks import token_maps
from semantic_guidance.attention_hooks.families import model_family
from semantic_guidance.nodes.region_preview import SemanticGuidanceRegionPreview
from semantic_guidance.sampling.prompt_text import prompt_text
from semantic_guidance.words.prompt import CONDITIONING_KEY, PromptWords, Word

UNSAMPLED = {"hunyuan_ref"}  # the host cannot sample it on the CPU
NAMES = [name for name in tiny_dit.MODELS if name not in UNSAMPLED]
PICTURE = ["sd3", "flux", "zimage", "qwen"]  # text first, with start tokens; by name; padded; 5-D with T = 1
CLIP = ["wan", "cogvideo"]  # cross-attention; joint
FINE = ["sd3", "flux", "anima", "wan"]  # also seen position by position
WORDS = (Word("cat", (1, 2)), Word("red", (4,)), Word("balloon", (6,)))
COLUMNS = [1, 2, 4, 6]


def prompt(name: str, seed: int = 0, **values) -> list:
    """With words, which a tiny text encoder of this family would have found in it."""
    conditioning = tiny_dit.prompt(name, seed, **values)
    ids = WORDS if "t5xxl_ids" in conditioning[0][1] else None
    words = PromptWords(WORDS, conditioning[0][0].shape[1], (), ids)
    return [[text, {**extra, CONDITIONING_KEY: words}] for text, extra in conditioning]


def noise(name: str, batch: int = 1, scale: int = 1) -> torch.Tensor:
    shape = tiny_dit.latent(name, batch, scale).shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def run(model, name: str, positive=None, negative=None, **options) -> torch.Tensor:
    given = options.pop("noise", None)
    given = noise(name) if given is None else given
    positive = prompt(name) if positive is None else positive
    negative = tiny_dit.prompt(name, 1) if negative is None else negative
    return tiny_dit.sample(model, positive, negative, torch.zeros_like(given), noise=given,
                           **{"steps": 2, "cfg": 4.0, **options})


def first_step(model, name: str, **options) -> dict:
    """What the host's post-CFG functions get in the first step, with what S-CFG made of it."""
    seen = []
    run(probed(model, lambda args: seen.append(dict(args))), name, steps=1, **options)
    return seen[0]


def separately(monkeypatch, model):
    monkeypatch.setattr(model, "get_free_memory", lambda device: 0)
    return model


@pytest.mark.parametrize(("name", "pool"), [*((name, True) for name in NAMES), *((name, False) for name in FINE)])
def test_every_family(monkeypatch, name, pool):
    monkeypatch.setattr(token_maps, "FINE", 0 if pool else token_maps.FINE)
    model = tiny_dit.model(name)
    plain, guided = first_step(model, name), first_step(with_scfg(model), name)
    start = name.startswith("sd3")
    text = guided["cond"][0]["model_conds"]["c_crossattn"].cond.shape[1]
    moved = text - tiny_dit.TOKENS if name == "flux2" else 0
    naive = NaiveSCFG([column + moved for column in COLUMNS], start, pool)
    expected = first_step(naive.install(model), name)
    effect = (expected["denoised"] - plain["denoised"]).abs().max()
    assert effect > 0
    # Both are rounded to float32 as they are added to the prediction.
    rounding = 4 * torch.finfo(torch.float32).eps * plain["denoised"].abs().max()
    assert (guided["denoised"] - expected["denoised"]).abs().max() < 1e-5 * effect + rounding

    apart = first_step(separately(monkeypatch, with_scfg(model)), name)
    alone = first_step(separately(monkeypatch, model.clone()), name)
    difference = (apart["denoised"] - alone["denoised"]) - (guided["denoised"] - plain["denoised"])
    assert difference.abs().max() < 1e-3 * effect + rounding


@pytest.mark.identity
@pytest.mark.parametrize("name", NAMES)
def test_every_family_as_the_host_alone_at_strength_0_and_twice_alike(name):
    model = tiny_dit.model(name)
    guided, record = with_regions(model)
    samples = run(guided, name)
    assert samples.isfinite().all() and torch.equal(run(guided, name), samples)
    plain = run(model, name)
    assert torch.equal(run(with_scfg(model, strength=0.0), name), plain) and not torch.equal(samples, plain)
    regions = record.of(samples)
    assert {region.text for region in regions.regions} <= {"cat", "red", "balloon"}
    assert regions.steps[0].owner.shape == samples[:, 0].shape


@pytest.mark.parametrize("name", [*PICTURE, *CLIP, "anima", "ltxv"])
def test_a_batch_equals_its_singles(name):
    model, given = with_scfg(tiny_dit.model(name)), noise(name, 2)
    both = first_step(model, name, noise=given)["denoised"]
    for image in range(2):
        single = first_step(model, name, noise=given[image : image + 1])["denoised"]
        assert relative(both[image : image + 1], single) < 1e-5


def masked(name: str, conditioning: list, left: bool) -> list:
    *_, height, width = tiny_dit.latent(name).shape
    mask = torch.zeros(1, height, width)
    mask[..., : width // 2] = 1
    return host_nodes.ConditioningSetMask().append(conditioning, mask if left else 1 - mask, "default", 1.0)[0]


def in_area(name: str, conditioning: list) -> list:
    """Half of the height, away from the top."""
    *_, height, width = tiny_dit.latent(name).shape
    area = {"area": (height // 2, width, height // 2, 0), "strength": 2.0, "set_area_to_bounds": False}
    return [[text, {**extra, **area}] for text, extra in conditioning]


ARRANGED = {
    "masks": lambda name: masked(name, prompt(name), True) + masked(name, prompt(name, 2), False),
    "area": lambda name: prompt(name) + in_area(name, prompt(name, 2)),
    "range": lambda name: host_nodes.ConditioningSetTimestepRange().set_range(prompt(name, 2), 0.0, 0.5)[0]
    + host_nodes.ConditioningSetTimestepRange().set_range(prompt(name), 0.5, 1.0)[0],
}


@pytest.mark.parametrize("arrangement", ARRANGED)
@pytest.mark.parametrize("name", ["sd3", "qwen", *CLIP])
def test_prompts_in_masks_areas_and_ranges(monkeypatch, name, arrangement):
    model, record = with_regions(tiny_dit.model(name))
    given = noise(name, scale=2)
    options = {"noise": given, "steps": 4 if arrangement == "range" else 2}
    samples = run(model, name, ARRANGED[arrangement](name), **options)
    apart = run(separately(monkeypatch, model), name, ARRANGED[arrangement](name), **options)
    assert relative(apart, samples) < 1e-3
    assert relative(run(tiny_dit.model(name), name, ARRANGED[arrangement](name), **options), samples) > 1e-6
    assert {region.prompt for region in record.of(samples).regions} == {0, 1}


@pytest.mark.parametrize("name", [*PICTURE, *CLIP])
def test_odd_sizes_and_prompts_of_unequal_lengths(name):
    model, record = with_regions(tiny_dit.model(name))
    channels, *frames, _, _ = tiny_dit.MODELS[name].latent
    given = torch.randn(1, channels, *frames, 9, 7)
    samples = run(model, name, noise=given, negative=tiny_dit.prompt(name, 1, tokens=tiny_dit.TOKENS + 5))
    assert samples.isfinite().all()
    assert record.of(samples).steps[0].owner.shape == (1, *frames, 9, 7)


def test_words_of_a_longer_prompt_than_the_others_are_at_their_columns():
    """Flux 2's text is padded in front, Z-Image's behind."""
    for name, moved in (("flux2", 512 - tiny_dit.TOKENS), ("zimage", 0)):
        guided = first_step(with_scfg(tiny_dit.model(name)), name)
        text = prompt_text(guided["cond"][0], model_family(tiny_dit.model(name), "test"))
        assert text.find("balloon") == (6 + moved,)
        assert text.labels()[4 + moved] == "red" and text.find("#3") == (3 + moved,)


def test_a_clips_regions_are_shown_frame_by_frame_and_step_by_step(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    model, record = with_regions(tiny_dit.model("wan"))
    samples = run(model, "wan")
    frames, height, width = samples.shape[2:]
    shown = SemanticGuidanceRegionPreview.execute(record, {"samples": samples}, step=0).result
    assert [len(pictures) for pictures in (shown[0], shown[2])] == [2 * frames] * 2
    assert shown[1].shape == (len(shown[1]), 8 * height, 8 * width) and len(shown[1]) % frames == 0
    words = shown[1].unflatten(0, (frames, -1))
    torch.testing.assert_close(words.sum(dim=1), torch.ones(frames, 8 * height, 8 * width))


def test_of_sd3_only_clips_columns_are_read():
    """T5's follow, which have other features than the first 2048, too."""
    text = torch.randn(1, 3 * 77, 4096)
    text[:, :154, 2048:] = 0
    cond = {"cross_attn": text, "model_conds": {"c_crossattn": comfy.conds.CONDRegular(text)}}
    family = model_family(tiny_dit.model("sd3"), "test")
    found = prompt_text(cond, family)
    assert (found.length, found.compared, found.find("#154")) == (231, 154, ())
    cond["cross_attn"] = text[:, :154]
    assert prompt_text(cond, family).compared == 154


@pytest.mark.parametrize("name", ["wan", "hunyuan_video"])
def test_regions_are_tubes_with_one_rate(name):
    model, record = with_regions(tiny_dit.model(name))
    guided = first_step(model, name)
    samples = run(model, name, steps=1)
    step = record.of(samples).steps[0]
    norm = (guided["cond_denoised"] - guided["uncond_denoised"]).norm(dim=1)
    for region in step.owner.unique().tolist():
        inside = step.owner == region
        torch.testing.assert_close(step.rates[0, region], norm.mean() / norm[inside].mean(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["wan", "hunyuan_video"])
def test_context_windows_over_time(name):
    """The maps of a frame are the mean over the windows that it is in."""
    channels, _, height, width = tiny_dit.MODELS[name].latent
    given = torch.randn(1, channels, 5, height, width, generator=torch.Generator().manual_seed(1))
    node = context_windows.ContextWindowsManualNode
    windowed = node.execute(tiny_dit.model(name), 3, 1, "standard_static", 1, False, "pyramid", 2, False).result[0]
    model, record = with_regions(windowed)
    samples = run(model, name, noise=given)
    assert record.of(samples).steps[0].owner.shape == (1, 5, height, width)
    assert relative(run(windowed, name, noise=given), samples) > 1e-5


@pytest.mark.parametrize("name", ["flux", "wan", "sd3"])
def test_beside_skipped_blocks_caches_other_precisions_and_two_evaluations_a_step(name, caplog):
    model = tiny_dit.model(name)

    def skip(args, extra):
        return {key: args[key] for key in ("img", "txt") if key in args}

    skipped = model.clone()
    kind = "single_block" if name == "flux" else "double_block"
    skipped.set_model_patch_replace(skip, "dit", kind, 0)
    cached = easycache.EasyCacheNode.execute(model, 1e6, 0.0, 1.0, False).result[0]
    half = tiny_dit.model(name, torch.bfloat16)
    for other, options in ((skipped, {}), (cached, {"steps": 4}), (half, {}), (model, {"sampler": "heun"})):
        samples = run(with_scfg(other), name, **options)
        assert samples.isfinite().all()
        assert not torch.equal(samples, run(other, name, **options))
        assert torch.equal(run(with_scfg(other, strength=0.0), name, **options), run(other, name, **options))


@pytest.mark.parametrize("name", ["sd3", "wan"])
def test_an_evaluation_waits_once(name):
    model, found = per_evaluation(with_scfg(tiny_dit.model(name)))
    run(model, name, steps=3)
    assert [sum(waits.values()) for waits in found] == [1, 1, 1], found


def test_a_prompt_without_words_is_told_once_and_all_its_text_competes(caplog):
    model, record = with_regions(tiny_dit.model("flux"))
    conditioning = tiny_dit.prompt("flux")
    conditioning[0][0][:, 5:] = 0  # padding
    samples = run(model, "flux", conditioning, steps=2)
    assert {region.column for region in record.of(samples).regions} <= set(range(5))
    assert caplog.text.count("tokens of the text encoder's template may take regions") == 1


def test_a_prompt_of_no_words_is_one_region(caplog):
    conditioning = prompt("flux")
    conditioning[0][1][CONDITIONING_KEY] = PromptWords((), tiny_dit.TOKENS)
    model, record = with_regions(tiny_dit.model("flux"))
    samples = run(model, "flux", conditioning)
    assert record.of(samples).regions[0].text == ""
    torch.testing.assert_close(record.of(samples).steps[0].rate_map, torch.ones(1, 10, 6).half())
    said = [entry for entry in caplog.records if entry.name != "root"]  # the host's own logger
    assert not [entry for entry in said if entry.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", ["lens", "ideogram4"])
def test_prompts_of_no_columns(name):
    """As their text encoders make of an empty prompt: an empty negative is usual, an empty positive one region."""
    ((text, extra),) = tiny_dit.prompt(name, 1)
    empty = [[text[:, :0], extra]]
    model, record = with_regions(tiny_dit.model(name))
    samples = run(model, name, negative=empty)
    assert samples.isfinite().all() and not torch.equal(samples, run(tiny_dit.model(name), name, negative=empty))
    samples = run(model, name, empty, prompt(name))
    assert [region.text for region in record.of(samples).regions] == [""]


@pytest.mark.parametrize("name", ["sd3", "qwen", "wan"])
def test_prompts_on_two_devices(name):
    """The host's MultiGPU CFG Split, with two names of the CPU for the devices."""
    second = tiny_dit.build(tiny_dit.MODELS[name].config, tiny_dit.MODELS[name].unet)
    second.load_device, second.is_multigpu_base_clone = torch.device("cpu:0"), True
    model = tiny_dit.model(name).clone()
    model.set_additional_models("multigpu", [second])
    split, joint = (first_step(with_scfg(each), name)["denoised"] for each in (model, tiny_dit.model(name)))
    assert relative(split, joint) < 1e-4


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_map_scale_is_for_unets(name):
    with pytest.raises(ValueError, match=r"S-CFG: .*Choose auto"):
        with_scfg(tiny_dit.model(name), map_scale="1/4")


def test_cfg_1_says_what_cfg_is_not(caplog):
    config = dict(tiny_dit.MODELS["flux"].unet, guidance_embed=True)
    model = tiny_dit.build("Flux", config)
    assert torch.equal(run(with_scfg(model), "flux", cfg=1.0), run(model, "flux", cfg=1.0))
    assert "FluxGuidance is an input of this model, not its cfg" in caplog.text
