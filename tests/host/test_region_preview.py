"""Region Preview on tiny models: what it shows of a run, and what it says where there is none."""

from __future__ import annotations

import comfy.model_management
import folder_paths
import pytest
import torch
from host import scfg_runs, tiny, tiny_clip

from semantic_guidance.nodes import region_preview
from semantic_guidance.nodes.pictures import pictures_behind
from semantic_guidance.nodes.region_preview import SemanticGuidanceRegionPreview
from semantic_guidance.sampling import region_record
from semantic_guidance.sampling.record import fingerprint
from semantic_guidance.sampling.region_record import by_words
from semantic_guidance.words.prompt import CONDITIONING_KEY

H, W = scfg_runs.SIZE
STEPS = 3


@pytest.fixture(scope="module")
def clip():
    return tiny_clip.clip("sd1")


@pytest.fixture(autouse=True)
def previews(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return tmp_path


def prompt(clip, text: str = "a cat and a red balloon", seed: int = 0) -> list:
    words = tiny_clip.words(clip, text)
    return tiny.prompt(seed, words.length, **{CONDITIONING_KEY: words})


def sampled(model, positive=None, batch: int = 1, settings: dict | None = None, **kwargs) -> tuple:
    """A record of regions and the latent that its run returned."""
    guided, record = scfg_runs.with_regions(model, **settings or {})
    return record, {"samples": scfg_runs.run(guided, positive, batch=batch, steps=STEPS, **kwargs)}


def preview(record, latent, **kwargs):
    return SemanticGuidanceRegionPreview.execute(record, latent, **kwargs).result


def test_the_last_step_is_shown_with_a_picture_and_masks(sd15, clip, previews):
    record, latent = sampled(sd15, prompt(clip))
    regions, masks, rates = preview(record, latent)
    assert regions.ndim == rates.ndim == 4 and len(regions) == len(rates) == 1
    assert regions.shape[2] > 768 and 0 <= regions.min() and regions.max() <= 1
    assert masks.shape[1:] == (8 * H, 8 * W)
    assert len(list(previews.glob("*.png"))) == 2


def test_masks_cover_every_pixel_once(sd15, clip):
    record, latent = sampled(sd15, prompt(clip), batch=2)
    image = torch.rand((2, 131, 197, 3))  # sizes that 8 does not divide
    _, masks, _ = preview(record, latent, image=image)
    assert masks.shape[1:] == (131, 197)
    assert masks.unique().tolist() == [0.0, 1.0]
    words = len(masks) // 2
    for index in range(2):
        torch.testing.assert_close(masks[index * words : (index + 1) * words].sum(dim=0), torch.ones(131, 197))


def test_a_mask_is_the_part_of_its_word(sd15, clip):
    record, latent = sampled(sd15, prompt(clip))
    run = record.of(latent["samples"])
    words, (shown,) = by_words(run, run.steps[-1:])
    _, masks, _ = preview(record, latent)
    token_owner = run.steps[-1].owner[0]
    for index, word in enumerate(words):
        tokens = [i for i, region in enumerate(run.regions) if region.text == word.text]
        expected = torch.isin(token_owner, torch.tensor(tokens)).float()
        assert torch.equal(masks[index, 4::8, 4::8], expected)
        mean = (run.steps[-1].rate_map[0].float() * expected).sum() / expected.sum()
        torch.testing.assert_close(shown.rates[0, index], mean)
        torch.testing.assert_close(shown.shares[0, index], expected.mean())


def test_all_steps_are_shown_one_after_the_other(sd15, clip):
    record, latent = sampled(sd15, prompt(clip), batch=2)
    regions, masks, rates = preview(record, latent, step=0)
    assert len(regions) == len(rates) == 2 * STEPS
    assert len(masks) % 2 == 0
    assert not torch.equal(regions[0], regions[2])


def test_a_word_keeps_its_colour_from_step_to_step(sd15, clip):
    record, latent = sampled(sd15, prompt(clip, "a cat, a dog, a red balloon and a blue bird in a green garden"))
    run = record.of(latent["samples"])
    number = {}
    for step in (*[(step,) for step in run.steps], run.steps):
        for word in by_words(run, step)[0]:
            assert number.setdefault((word.prompt, word.text), word.number) == word.number
    coloured = [value for value in number.values() if value is not None]
    assert len(set(coloured)) == len(coloured) > 3


def test_the_same_word_twice_is_one_and_tokens_without_a_word_stand_last(sd15, clip):
    record, latent = sampled(sd15, prompt(clip, "red red red cat cat cat"))
    run = record.of(latent["samples"])
    words, steps = by_words(run, run.steps)
    texts = [word.text for word in words]
    assert set(texts) <= {"red", "cat", ""} and len(set(texts)) == len(texts) > 1
    assert texts == sorted(texts, key=["red", "cat", ""].index)
    for step in steps:
        torch.testing.assert_close(step.shares.sum(dim=1), torch.ones(1))


def test_one_step_can_be_asked_for_and_an_absent_one_is_named(sd15, clip):
    record, latent = sampled(sd15, prompt(clip))
    first, _, _ = preview(record, latent, step=1)
    assert len(first) == 1
    assert torch.equal(preview(record, latent, step=STEPS)[1], preview(record, latent)[1])
    with pytest.raises(ValueError, match=rf"Region Preview: there is no step {STEPS + 1}.*steps 1 to {STEPS}"):
        preview(record, latent, step=STEPS + 1)


def test_steps_outside_the_time_range_were_not_recorded(sd15, clip):
    record, latent = sampled(sd15, prompt(clip), settings={"start_percent": 0.5})
    with pytest.raises(ValueError, match=r"no step 1\. S-CFG acted in steps [23] to 3"):
        preview(record, latent, step=1)
    assert len(preview(record, latent)[0]) == 1


def test_tokens_are_numbered_where_the_prompt_has_no_words(sd15):
    record, latent = sampled(sd15)
    run = record.of(latent["samples"])
    words, _ = by_words(run, run.steps)
    assert words and all(word.text.startswith("#") for word in words)
    assert len(preview(record, latent)[0]) == 1


def test_a_word_of_two_prompts_has_a_mask_for_each(sd15, clip):
    left = torch.zeros((1, H, W))
    left[..., : W // 2] = 1
    one, two = prompt(clip, "cat", seed=0), prompt(clip, "cat", seed=1)
    one[0][1].update(mask=left, mask_strength=1.0, set_area_to_bounds=False)
    two[0][1].update(mask=1 - left, mask_strength=1.0, set_area_to_bounds=False)
    record, latent = sampled(sd15, one + two)
    run = record.of(latent["samples"])
    words, (step,) = by_words(run, run.steps[-1:])
    for index, word in enumerate(words):
        if word.text:
            half = slice(0, W // 2) if word.prompt == 0 else slice(W // 2, None)
            assert (step.owner[..., half] == index).sum() == (step.owner == index).sum() > 0


def test_a_latent_of_another_run_is_refused(sd15, clip):
    record, latent = sampled(sd15, prompt(clip))
    with pytest.raises(ValueError, match="Region Preview: .*Connect the LATENT output of that sampler"):
        preview(record, {"samples": latent["samples"] + 1})


def test_a_record_without_a_run_says_how_to_get_one(sd15):
    _, record = scfg_runs.with_regions(sd15)
    with pytest.raises(ValueError, match="Region Preview: no regions were recorded. Connect the MODEL output"):
        preview(record, {"samples": tiny.latent(1, H, W)})


def test_as_many_images_as_latents_are_needed(sd15, clip):
    record, latent = sampled(sd15, prompt(clip), batch=2)
    with pytest.raises(ValueError, match="Region Preview: 3 images for 2 latents"):
        preview(record, latent, image=torch.rand((3, 64, 64, 3)))


def test_many_pictures_are_smaller_and_can_be_stopped(monkeypatch, sd15, clip):
    record, latent = sampled(sd15, prompt(clip), batch=2)
    full, _, full_rates = preview(record, latent)
    one = full[0].nbytes
    monkeypatch.setattr(region_preview, "BUDGET", 2 * 2 * STEPS * one // 4)
    regions, masks, rates = preview(record, latent, step=0)
    assert len(regions) == 2 * STEPS and regions.nbytes <= 2 * STEPS * one / 4
    assert regions.shape[1] == pytest.approx(full.shape[1] / 2, abs=2)
    assert rates.shape[1] > full_rates.shape[1] / 2
    assert masks.shape[1:] == (8 * H, 8 * W)

    drawn = []

    def stop(*args):
        drawn.append(args)
        comfy.model_management.interrupt_current_processing()
        return torch.zeros(8, 8, 3)

    monkeypatch.setattr(region_preview, "region_picture", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        preview(record, latent, step=0)
    assert len(drawn) == 1


def test_a_clip_shows_each_of_its_latent_frames():
    """A record of two steps on two clips of three frames, as a video model leaves it."""
    samples = torch.randn(2, 16, 3, 4, 6)
    owner = torch.arange(3, dtype=torch.int16)[None, :, None, None].expand(2, 3, 4, 6)  # a word for each frame
    rate = torch.rand(2, 3, 4, 6).half() + 0.5
    steps = tuple(region_record.RegionStep(step, 1.0 - step / 2, owner, torch.ones(2, 3), rate) for step in range(2))
    named = tuple(region_record.Region(0, column, text) for column, text in enumerate(("cat", "sits", "dog")))
    record = region_record.RegionRecord()
    record.add(region_record.Regions(named, steps, 8, fingerprint(samples)))
    image = torch.rand(2 * 9, 32, 48, 3)
    pictures, masks, rates = preview(record, {"samples": samples}, image=image)
    assert len(pictures) == len(rates) == 2 * 3
    assert masks.shape == (2 * 3 * 3, 32, 48)
    assert masks.view(2, 3, 3, -1).mean(dim=-1)[0].tolist() == torch.eye(3).tolist()
    assert len(preview(record, {"samples": samples}, step=0)[0]) == 2 * 2 * 3
    behind = pictures_behind(image, 2, 3, "test")
    assert [int((image == picture).flatten(1).all(dim=1).nonzero()) for picture in behind] == [0, 4, 8, 9, 13, 17]
    with pytest.raises(ValueError, match="Region Preview: 5 images for 2 clips of 3 latent frames"):
        preview(record, {"samples": samples}, image=image[:5])
