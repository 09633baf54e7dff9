"""Word Mask on a tiny model of every transformer family, pictures and clips."""

from __future__ import annotations

import comfy.nested_tensor
import folder_paths
import pytest
import torch
import torch.nn.functional as F
from host import tiny_dit
from host.naive_scfg import NaiveSCFG, nearest
from host.test_scfg_families import CLIP, FINE, NAMES, masked, noise, prompt
from node_defaults import defaults

from semantic_guidance.attention_hooks import token_maps
from semantic_guidance.nodes.word_mask import SemanticGuidanceWordMask
from semantic_guidance.sampling.word_mask import word_maps

DEFAULTS = defaults(SemanticGuidanceWordMask)


def look(model, conditioning, words, samples, completion="as released", **kwargs):
    with torch.inference_mode():
        return word_maps(model, conditioning, {"samples": samples}, words, 0.5, completion, **kwargs)


@pytest.mark.parametrize(("name", "pool"), [*((name, True) for name in NAMES), *((name, False) for name in FINE)])
def test_a_word_is_where_a_naive_reading_of_the_same_call_sees_it(monkeypatch, name, pool):
    monkeypatch.setattr(token_maps, "FINE", 0 if pool else token_maps.FINE)
    model, samples = tiny_dit.model(name), noise(name, 2)
    moved = 512 - tiny_dit.TOKENS if name == "flux2" else 0
    naive = NaiveSCFG([1 + moved, 2 + moved], pool=pool)
    look(naive.install(model), prompt(name), ["cat"], samples)
    maps = [found / (found.mean(dim=(2, 3, 4), keepdim=True) + 1e-8) for found in naive.maps(0, naive.columns)]
    expected = (sum(maps) / len(maps)).mean(dim=1)  # of the word's two tokens; [B, t, h, w]
    size = (1,) * (5 - samples.ndim) + tuple(samples.shape[2:])
    expected = nearest(F.interpolate(expected, size[1:], mode="bilinear"), size).view(2, *samples.shape[2:])

    (seen,) = look(model, prompt(name), ["cat"], samples)
    torch.testing.assert_close(seen.attention, expected.float(), atol=1e-5, rtol=1e-5)
    assert torch.equal(seen.share, torch.ones(2, *samples.shape[2:]))


@pytest.mark.parametrize("name", ["flux", "sd3", "anima", "wan"])
def test_maps_without_completion_are_on_the_full_grid_and_token_numbers_are_the_words(name):
    model, samples = tiny_dit.model(name), noise(name, scale=2)
    by_word, first, second = look(model, prompt(name), ["cat", "#1", "#2"], samples, "none")
    torch.testing.assert_close(by_word.attention, (first.attention + second.attention) / 2)
    completed = look(model, prompt(name), ["cat"], samples, "power series")[0]
    assert by_word.attention.unique().numel() > completed.attention.unique().numel() / 2
    assert not torch.allclose(by_word.attention, completed.attention, atol=1e-3)


@pytest.mark.parametrize("name", CLIP)
def test_a_clip_gets_a_mask_for_each_latent_frame_and_one_preview(name, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    model, samples = tiny_dit.model(name), noise(name, 2)
    frames, height, width = samples.shape[2:]
    decoded = torch.rand(2 * (4 * (frames - 1) + 1), 8 * height, 8 * width, 3)
    for image in (None, decoded):
        with torch.inference_mode():
            output = SemanticGuidanceWordMask.execute(
                model, prompt(name), **{**DEFAULTS, "latent": {"samples": samples}, "words": "cat, red", "image": image}
            )
        masks, heat = output.result
        assert masks.shape == (2 * 2 * frames, 8 * height, 8 * width) and len(heat) == 2 * 2 * frames
        assert torch.equal(masks.unflatten(0, (2, 2, frames)).amax((2, 3, 4)), torch.ones(2, 2))  # of a clip
        assert len(output.ui.as_dict()["images"]) == 2 * 2


@pytest.mark.parametrize(("name", "shape", "message"), [
    ("flux", (1, 4, 10, 6), "Word Mask: the latent is 1 x 4 x 10 x 6, but this model's have 16 channels and height"),
    ("flux", (1, 16, 2, 10, 6), "1 x 16 x 2 x 10 x 6, but this model's have 16 channels and height and width"),
    ("wan", (1, 4, 2, 10, 6), "1 x 4 x 2 x 10 x 6, but this model's have 16 channels and frames, height and width"),
])
def test_a_latent_of_another_model_is_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        look(tiny_dit.model(name), prompt(name), ["cat"], torch.ones(shape))


def test_a_latent_of_video_and_sound_is_refused():
    parts = comfy.nested_tensor.NestedTensor([torch.ones(1, 16, 2, 10, 6), torch.ones(1, 8, 7)])
    with pytest.raises(ValueError, match="Word Mask: the latent has several parts, such as video with sound"):
        look(tiny_dit.model("wan"), prompt("wan"), ["cat"], parts)


def test_a_picture_is_a_clip_of_one_frame():
    (seen,) = look(tiny_dit.model("wan"), prompt("wan"), ["cat"], torch.ones(1, 16, 10, 6))
    assert seen.attention.shape == (1, 1, 10, 6)


@pytest.mark.parametrize("name", ["qwen", "wan"])
def test_masked_prompts_count_where_they_act(name):
    conditioning = masked(name, prompt(name), True) + masked(name, tiny_dit.prompt(name, 2), False)
    (seen,) = look(tiny_dit.model(name), conditioning, ["cat"], noise(name))
    width = seen.share.shape[-1]
    assert seen.share[..., : width // 2].min() == 1 and seen.share[..., width // 2 :].max() == 0
