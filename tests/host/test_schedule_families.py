"""Guidance Schedule and Guidance Meter on transformers: pictures, video, and video with sound."""

from __future__ import annotations

import pytest
import torch
from host import scfg_runs, sega_families, test_scfg_families
from host.scfg_runs import probed, relative
from host.schedule_runs import metered, scheduled
from host.test_scfg_families import CLIP, PICTURE, noise, run

from semantic_guidance.guidance.smoothing import smooth
from semantic_guidance.nodes.meter_curves import SemanticGuidanceMeterCurves

WEIGHT = 3.0  # of cfg 4


def model(name: str):
    return test_scfg_families.tiny_dit.model(name)


def first_step(patched, name: str, **options) -> dict:
    """The arguments of the host's post-CFG functions in the first step, after the model's own."""
    seen: list[dict] = []
    run(probed(patched, lambda args: seen.append(dict(args))), name, steps=1, **options)
    return seen[0]


def direction(seen: dict) -> torch.Tensor:
    return seen["cond_denoised"] - seen["uncond_denoised"]


@pytest.mark.parametrize("name", [*PICTURE, *CLIP])
def test_the_whole_picture_and_a_mask(name):
    half = torch.zeros(1, *noise(name).shape[-2:])
    half[..., : half.shape[-1] // 2] = 1
    for mask in (None, half):
        seen = first_step(scheduled(model(name), preset="constant", factor=0.5, mask=mask), name)
        weight = WEIGHT * (0.5 if mask is None else 1 - 0.5 * mask)
        expected = seen["cond_denoised"] + weight * direction(seen)
        assert relative(seen["denoised"], expected) < 1e-5


@pytest.mark.parametrize("name", [*PICTURE, *CLIP])
def test_words_are_changed_where_scfg_has_their_regions(name):
    patched, record = scfg_runs.with_regions(model(name), strength=0.0)
    regions = record.of(run(patched, name, steps=1))
    owner = regions.steps[0].owner[:, None]
    factor = torch.ones(owner.shape, dtype=torch.float64)
    for index, region in enumerate(regions.regions):
        factor[owner == index] = {"cat": 0.0, "red": 2.0, "balloon": 2.0}.get(region.text, 1.0)
    seen = first_step(scheduled(model(name), preset="constant", words="cat: 0, red balloon: 2"), name)
    expected = seen["cond_denoised"] + WEIGHT * (1 + smooth(factor - 1)) * direction(seen)
    assert relative(seen["denoised"], expected) < 1e-5
    assert (factor != 1).any()


@pytest.mark.parametrize("name", [*PICTURE, *CLIP])
def test_the_meter_measures_cfg_and_changes_nothing(name):
    patched, record = metered(model(name), "cat, red balloon")
    samples = run(patched, name)
    assert torch.equal(samples, run(model(name), name))
    scales = torch.stack([step.scale for step in record.of(samples).steps])
    known = scales[~scales.isnan()]
    assert not scales[..., 0].isnan().any()
    torch.testing.assert_close(known, torch.full_like(known, 4.0), atol=1e-2, rtol=0)


def test_video_with_sound_is_scheduled_and_measured_as_a_whole():
    sound = sega_families.of_family(sega_families.SOUND)
    patched, record = metered(scheduled(sound, preset="constant", factor=0.5))
    parts = sega_families.sampled(patched, sega_families.SOUND, cfg=4.0)
    plain = sega_families.run(sound, sega_families.SOUND, cfg=4.0)
    assert relative(sega_families.flat(parts), plain) > 1e-3
    steps = record.of(parts).steps
    scales = torch.stack([step.scale for step in steps])
    torch.testing.assert_close(scales, torch.full((3, 1, 1), 2.5), atol=1e-2, rtol=0)
    shown = SemanticGuidanceMeterCurves.execute(record, {"samples": parts}, image=torch.ones(9, 8, 8, 3)).result
    assert "effective scale 2.50" in shown[2] and "picture 100.0 %" in shown[2]
    with pytest.raises(ValueError, match="Meter Curves: the latent is not one that a sampler"):
        SemanticGuidanceMeterCurves.execute(record, {"samples": parts + 1.0})
    with pytest.raises(ValueError, match="Guidance Schedule: words and masks have no place in a latent of several"):
        sega_families.run(scheduled(sound, mask=torch.ones(1, 5, 3)), sega_families.SOUND)
