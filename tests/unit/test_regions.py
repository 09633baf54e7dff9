from __future__ import annotations

import pytest
import torch

from semantic_guidance.guidance.regions import Box, box_cover, exclusive, isolated, prompt_shares, resample, snapped

SIZES = [(8, 16), (5, 7), (3, 4, 6)]


@pytest.mark.parametrize("size", SIZES)
def test_a_box_covers_its_share_of_every_grid(size):
    box = Box(0.25, 0.1, 0.8, 0.95)
    cover = box_cover(box, size)
    assert cover.shape == (1, *size)
    assert torch.allclose(cover.mean(dim=(-2, -1)), torch.full(cover.shape[:-2], 0.55 * 0.85, dtype=cover.dtype))
    assert ((cover == 0) | (cover == 1)).sum() > cover.numel() / 4
    assert torch.equal(box_cover(Box(0, 0, 1, 1), size), torch.ones(1, *size, dtype=cover.dtype))
    assert torch.equal(box_cover(Box(-2, -1, 0.5, 4), size), box_cover(Box(0, 0, 0.5, 1), size))


def test_a_mask_on_a_coarser_grid_is_the_mean_of_its_cells():
    mask = torch.rand(2, 8, 12)
    assert torch.allclose(resample(mask, (4, 6)), mask.view(2, 4, 2, 6, 2).mean(dim=(2, 4)))
    clip = torch.rand(1, 4, 8, 12)
    assert torch.allclose(resample(clip, (2, 4, 6)), clip.view(1, 2, 2, 4, 2, 6, 2).mean(dim=(2, 4, 6)))
    assert resample(mask, (8, 12)) is mask
    assert resample(mask, (16, 24)).shape == (2, 16, 24)
    assert torch.equal(resample(torch.ones(1, 7, 9), (3, 5)), torch.ones(1, 3, 5))


def test_the_first_of_the_list_wins_and_soft_edges_stay():
    left, everywhere, half = torch.zeros(1, 1, 4), torch.ones(1, 1, 4), torch.full((2, 1, 4), 0.5)
    left[..., :2] = 1
    places = exclusive([left, half, everywhere])
    assert places.shape == (3, 2, 1, 4)
    assert places[:, 1, 0].tolist() == [[1, 1, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]]


def test_shares_sum_to_one_and_what_a_region_leaves_is_the_base_prompts():
    places = exclusive([torch.rand(1, 5, 6), torch.rand(1, 5, 6)])
    shares = prompt_shares(places, [0.8, 0.0])
    assert torch.allclose(shares.sum(dim=0), torch.ones(1, 5, 6))
    assert torch.equal(shares[1], 0.8 * places[0]) and not shares[2].any()
    whole = prompt_shares(torch.ones(1, 1, 5, 6), [1.0])
    assert not whole[0].any()


@pytest.mark.parametrize("grow", [False, True])
def test_a_box_snaps_to_where_its_words_stand_out(grow):
    box, seen = torch.zeros(2, 9, 9), torch.zeros(2, 9, 9)
    box[:, 2:5, 2:5] = 1
    seen[0, 3:8, 3:8] = 1
    seen[1, 8:, 8:] = 1
    place, found = snapped(box, seen, 0.5, grow)
    expected = torch.zeros(9, 9)
    expected[3 : 7 if grow else 5, 3 : 7 if grow else 5] = 1
    assert found.tolist() == [True, False]
    assert torch.equal(place[0], expected) and torch.equal(place[1], box[1])
    flat, found = snapped(box, torch.ones(2, 9, 9), 0.5, grow)
    assert torch.equal(flat, box) and not found.any()


@pytest.mark.parametrize(("share", "expected"), [(0.0, []), (0.5, [1, 3, 5, 7]), (0.25, [3, 7]), (1.0, list(range(8)))])
def test_blocks_are_isolated_evenly(share, expected):
    assert [block for block, apart in enumerate(isolated(8, share)) if apart] == expected
