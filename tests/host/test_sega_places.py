"""Where SEGA edits, on every family: masks, frames, areas in time, and where the model sees words."""

from __future__ import annotations

import comfy.sample
import pytest
import torch
from comfy_extras.nodes_video_model import ConditioningSetAreaPercentageVideo
from host import tiny_dit
from host.sega_families import SOUND, alone, latent, of_family, prompt, run
from host.sega_runs import concept, with_sega


@pytest.fixture
def model(name):
    return of_family(name)


def changed(model, name: str, chain) -> torch.Tensor:
    """Where one step of sampling with the edits differs from the host's, [B, *size], or [B, 1, N] for all parts."""
    settings = {"steps": 10, "last_step": 1}
    difference = run(with_sega(model, chain), name, **settings) - run(model, name, **settings)
    return difference.abs().amax(dim=1) > 1e-3 * difference.abs().max()


VIDEOS = ["wan", "cosmos2", "hunyuan_video", "ltxv"]


@pytest.mark.parametrize("name", [*VIDEOS, "qwen", "sd3", "radiance"])
def test_a_mask_confines_the_edit_in_every_frame(model, name):
    size = tiny_dit.latent(name).shape[2:]
    mask = torch.zeros(1, *(8 * length for length in size[-2:]))
    mask[..., : mask.shape[-1] // 2] = 1
    where = changed(model, name, concept(prompt(name, 2), mask=mask, threshold=0.0))
    inside = torch.arange(size[-1]) < size[-1] // 2
    assert where[..., inside].float().mean() > 0.9 and not where[..., size[-1] // 2 + 1 :].any()


@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.parametrize("given", ["masks", "area"])
def test_masks_for_frames_and_areas_in_time(model, name, given):
    if given == "masks":
        edit = concept(prompt(name, 2), mask=torch.tensor([0.0, 1.0])[:, None, None].expand(2, 40, 24), threshold=0.0)
    else:
        (area,) = ConditioningSetAreaPercentageVideo().append(prompt(name, 2), 1.0, 1.0, 0.5, 0.0, 0.0, 0.5, 1.0)
        edit = concept(area, threshold=0.0)
    where = changed(model, name, edit)
    assert where[:, 1].float().mean() > 0.9 and not where[:, 0].any()


@pytest.mark.parametrize("name", VIDEOS)
def test_areas_in_time_of_the_prompts_are_those_of_the_concepts(model, name):
    """A concept with the negative prompt's text is no edit, whatever areas the positive one has."""
    (area,) = ConditioningSetAreaPercentageVideo().append(prompt(name, 6), 1.0, 1.0, 0.5, 0.0, 0.0, 0.5, 1.0)
    positive = [*prompt(name, 0), *area]
    plain = run(model, name, positive)
    same = run(with_sega(model, concept(prompt(name, 1, tokens=7), threshold=0.0)), name, positive)
    other = run(with_sega(model, concept(prompt(name, 2), threshold=0.0)), name, positive)
    assert (same - plain).abs().max() < 1e-3 * (other - plain).abs().max()


@pytest.mark.parametrize("name", [SOUND])
def test_a_mask_is_one_for_the_picture_and_leaves_the_sound(model, name):
    edit = concept(prompt(name, 2), mask=torch.zeros(1, 8, 8), threshold=0.0)
    video, sound = changed(model, name, edit).split([128 * 2 * 5 * 3, 8 * 7 * 16], dim=-1)
    assert not video.any() and sound.float().mean() > 0.9


def confined(model, name: str, words: str, **kwargs):
    """One step with an edit that may act where the model sees these tokens of the concept's prompt."""
    chain = concept(prompt(name, 2, tokens=10), threshold=0.75, confine_to=words)
    return run(with_sega(model, chain), name, steps=4, last_step=1, **kwargs)


@pytest.mark.parametrize("name", tiny_dit.MODELS)
def test_a_confined_edit_is_the_free_one_where_the_model_sees_the_words(model, name, monkeypatch):
    """The quarter of the positions, or a few more where several are alike, is the same for all channels."""
    alone(monkeypatch, model)
    plain, free = run(model, name, steps=4, last_step=1), confined(model, name, "")
    masks = []
    for words in ("#2", "#4"):
        edited = confined(model, name, words)
        acts = (edited != plain).any(dim=1, keepdim=True)
        assert torch.equal(edited, torch.where(acts, free, plain))
        assert acts.any() and acts.float().mean() <= 0.45
        masks.append(acts)
    assert not torch.equal(*masks)


@pytest.mark.parametrize("name", ["sd3", "zimage", "wan"])
def test_the_words_are_those_of_the_concepts_own_prompt(model, name):
    """Another positive prompt leaves the places where the edit may act."""
    acts = []
    for positive in (prompt(name, 0), prompt(name, 6)):
        plain = run(model, name, positive, steps=4, last_step=1)
        acts.append((confined(model, name, "#3", positive=positive) - plain).abs().amax(dim=1) > 1e-4)
    assert torch.equal(*acts)


@pytest.mark.parametrize("name", ["wan"])
def test_the_places_are_those_of_an_explicit_softmax(model, name, monkeypatch):
    """Of the middle one of three layers, blurred in each frame; the quantile is that of the whole clip."""
    alone(monkeypatch, model)
    plain, seen = run(model, name, steps=4, last_step=1), []

    def attention(func, q, k, v, heads, *args, transformer_options, **kwargs):
        of_concept = transformer_options["cond_or_uncond"] == [2] and k.shape[1] == 10
        if of_concept and transformer_options["block_index"] == 1:
            q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
            weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)
            seen.append(weights[..., 3].reshape(1, 2, 5, 3))
            q, k = (t.transpose(1, 2).flatten(2) for t in (q, k))
        return func(q, k, v, heads, *args, transformer_options=transformer_options, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = attention
    acts = (confined(model, name, "#3") != plain).any(dim=1)
    (maps,) = seen
    taps = torch.tensor([0.21194156, 0.57611688, 0.21194156])
    padded = torch.nn.functional.pad(maps.transpose(0, 1), (1, 1, 1, 1), mode="reflect")
    smooth = torch.nn.functional.conv2d(padded, torch.outer(taps, taps)[None, None])
    strongest = (smooth >= smooth.flatten().quantile(0.75))[:, 0]
    where = strongest.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    assert acts.any() and not acts[0, ~where].any()
    assert (acts[0] == where).float().mean() > 0.9  # some of these positions are below the threshold in all channels


@pytest.mark.parametrize("name", ["qwen", "wan"])
def test_words_in_a_batch_are_those_of_each_picture(model, name):
    noise = comfy.sample.prepare_noise(latent(name, 2), 3)
    together = confined(model, name, "#3", batch=2, noise=noise)
    for image in range(2):
        single = confined(model, name, "#3", noise=noise[image : image + 1])
        assert (together[image : image + 1] - single).abs().max() < 1e-3


@pytest.mark.parametrize("name", [SOUND])
def test_a_family_whose_attention_cannot_be_read_is_edited_but_not_confined(model, name):
    with pytest.raises(ValueError, match="SEGA: .*LTXAV"):
        confined(model, name, "#3")
