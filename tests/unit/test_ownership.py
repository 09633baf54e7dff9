"""Places and their owners, against plain loops."""

from __future__ import annotations

import pytest
import torch

from semantic_guidance.guidance.ownership import owned_shares, owners, remembered, standardised, weights_apart
from semantic_guidance.guidance.smoothing import smooth


def blobs(*centres, size=(8, 12)) -> torch.Tensor:
    """[1, S, h, w]: a hill at each centre."""
    rows, columns = torch.meshgrid(*(torch.arange(length).double() for length in size), indexing="ij")
    return torch.stack([(-((rows - y) ** 2 + (columns - x) ** 2) / 4).exp() for y, x in centres])[None]


def test_the_subject_that_stands_out_most_owns_a_place():
    maps = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    found = owners(maps, 0.8)
    blurred = smooth(maps)
    for image in range(2):
        z = [(m - m.mean()) / m.std(correction=0) for m in blurred[image]]
        for row in range(5):
            for column in range(6):
                here = [float(m[row, column]) for m in z]
                expected = here.index(max(here)) + 1 if max(here) > 0.8 else 0
                assert found[image, row, column] == expected


def test_each_hill_has_its_subject_and_a_loud_one_wins_nothing_for_it():
    maps = blobs((2, 2), (5, 9)) * torch.tensor([1.0, 0.01])[:, None, None]
    found = owners(maps, 1.0)[0]
    assert found[2, 2] == 1 and found[5, 9] == 2 and found[7, 0] == 0
    assert torch.equal(found, owners(maps * 1000, 1.0)[0])


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (1, 2, 1, 1), (2, 2, 3, 1, 5)])
def test_constant_maps_have_no_owner_and_no_nan(shape):
    assert not standardised(torch.full(shape, 0.3)).any()
    assert not owners(torch.full(shape, 0.3), 0.0).any()


def test_a_clip_is_one_picture():
    maps = torch.cat([blobs((2, 2), (5, 9)), 0.1 * blobs((5, 9), (2, 2))]).transpose(0, 1)[None]  # [1, S, T, h, w]
    found = owners(maps, 1.0)
    assert found.shape == (1, 2, 8, 12)
    assert found[0, 0].any() and not found[0, 1].any()


def test_memory_weights_and_shares():
    one, two = blobs((1, 1)), blobs((4, 4))
    assert remembered(None, one, 0.7) is one
    torch.testing.assert_close(remembered(one, two, 0.7), 0.7 * one + 0.3 * two)
    assert weights_apart(1, 3, 0.75) == (1.0, 0.25, 1.0, 0.25)
    assert owned_shares(torch.tensor([[0, 1], [2, 1]])[None], 2).tolist() == [[0.25, 0.5, 0.25]]
