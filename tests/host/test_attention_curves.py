"""The preview of Attend-and-Excite, on what a run recorded."""

from __future__ import annotations

import pytest
import torch
from host.attend_excite_runs import run, with_trace

from semantic_guidance.nodes.attention_curves import SemanticGuidanceAttentionCurves


@pytest.fixture(scope="module")
def sampled(sd15):
    model, record = with_trace(sd15, max_refinements=0)
    return record, run(model, batch=2, steps=2)


def draw(record, samples, image=None):
    return SemanticGuidanceAttentionCurves.execute(record, {"samples": samples}, image).result


def test_curves_for_each_image_and_maps_for_each_word(sampled):
    record, samples = sampled
    curves, maps = draw(record, samples)
    assert len(curves) == 2 and len(maps) == 4
    assert 0 <= curves.min() and curves.max() <= 1
    assert not torch.equal(curves[0], curves[1]) and not torch.equal(maps[0], maps[1])
    over_image, _ = draw(record, samples, torch.rand(2, 128, 192, 3))
    assert torch.equal(over_image, curves)


def test_what_does_not_belong_together_is_said(sampled):
    record, samples = sampled
    with pytest.raises(ValueError, match="Attention Curves: the latent is not one"):
        draw(record, samples + 1)
    with pytest.raises(ValueError, match="Attention Curves: 3 images for 2 latents"):
        draw(record, samples, torch.rand(3, 64, 64, 3))
