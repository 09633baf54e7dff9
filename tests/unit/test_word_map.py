from __future__ import annotations

import pytest
import torch

from semantic_guidance.guidance.word_map import contrast, soft_mask

EVERYWHERE = torch.ones(2, 4, 6)


@pytest.fixture
def attention():
    return torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0)) + 0.5


def test_a_soft_mask_goes_from_the_least_to_the_most_attention(attention):
    mask = soft_mask(attention, EVERYWHERE, (4, 6))
    assert torch.equal(mask.amin((-2, -1)), torch.zeros(2))
    assert torch.equal(mask.amax((-2, -1)), torch.ones(2))
    assert torch.equal(mask.flatten(1).argsort(), attention.flatten(1).argsort())


def test_only_differences_of_attention_count(attention):
    mask = soft_mask(attention, EVERYWHERE, (32, 48))
    assert torch.allclose(soft_mask(3 * attention + 7, EVERYWHERE, (32, 48)), mask, atol=1e-5)


def test_each_image_has_its_own_range(attention):
    attention[1] *= 100
    mask = soft_mask(attention, EVERYWHERE, (32, 48))
    assert torch.allclose(mask[:1], soft_mask(attention[:1], EVERYWHERE[:1], (32, 48)), atol=1e-6)
    assert mask.shape == (2, 32, 48) and torch.equal(mask.amax((-2, -1)), torch.ones(2))


def test_an_equal_share_of_several_prompts_changes_nothing(attention):
    mask = soft_mask(attention, EVERYWHERE, (32, 48))
    assert torch.allclose(soft_mask(attention, 0.5 * EVERYWHERE, (32, 48)), mask, atol=1e-6)


def test_the_mask_is_zero_and_blind_where_the_word_has_no_share(attention):
    share = EVERYWHERE.clone()
    share[..., 3:] = 0
    other = attention.clone()
    other[..., 3:] = 99
    mask = soft_mask(attention, share, (4, 6))
    assert not mask[..., 3:].any()
    assert torch.equal(mask, soft_mask(other, share, (4, 6)))
    assert torch.equal(mask.amin((-2, -1)), torch.zeros(2)) and torch.equal(mask.amax((-2, -1)), torch.ones(2))


def test_the_mask_fades_with_the_share():
    attention = torch.tensor([[[0.0, 1.0, 1.0, 1.0]]])
    share = torch.tensor([[[1.0, 1.0, 0.5, 0.25]]])
    assert torch.allclose(soft_mask(attention, share, (1, 4)), torch.tensor([[[0.0, 1.0, 0.5, 0.25]]]))


def test_a_constant_map_and_a_map_without_share_give_empty_masks():
    assert not soft_mask(EVERYWHERE, EVERYWHERE, (8, 12)).any()
    assert not soft_mask(torch.zeros(2, 4, 6), torch.zeros(2, 4, 6), (8, 12)).any()


def test_contrast_is_deviation_over_mean(attention):
    expected = attention.flatten(1).std(dim=1, correction=0) / attention.flatten(1).mean(dim=1)
    assert torch.allclose(contrast(attention, EVERYWHERE), expected)
    assert torch.allclose(contrast(5 * attention, EVERYWHERE), expected)
    assert torch.equal(contrast(EVERYWHERE, EVERYWHERE), torch.zeros(2))


def test_contrast_looks_only_where_the_word_has_a_share(attention):
    share = EVERYWHERE.clone()
    share[..., 3:] = 0
    expected = contrast(attention[..., :3], share[..., :3])
    assert torch.allclose(contrast(attention, share), expected)


def test_a_clip_has_one_range_over_all_its_frames(attention):
    clip = attention[:, None] * torch.tensor([1.0, 0.2, 0.5])[None, :, None, None]  # [2, 3 frames, 4, 6]
    mask = soft_mask(clip, torch.ones_like(clip), (8, 12))
    assert mask.shape == (2, 3, 8, 12)
    assert torch.equal(mask.amax((1, 2, 3)), torch.ones(2))
    assert (mask.amax((2, 3))[:, 1] < 0.5).all()
    assert torch.equal(contrast(clip, torch.ones_like(clip)), contrast(clip.flatten(2), torch.ones(2, 3, 24)))
