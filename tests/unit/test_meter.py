"""What Guidance Meter computes, and the scale of its plot."""

from __future__ import annotations

import pytest
import torch

from semantic_guidance.drawing.curves import Curve, whole_scale
from semantic_guidance.guidance.meter import clipped_share, effective_scale, norm_ratio


def predictions(shape=(2, 4, 6, 5)) -> torch.Tensor:
    return torch.randn((2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (2, 4, 3, 6, 5), (2, 1, 50)])
def test_plain_cfg_has_its_own_scale_everywhere(shape):
    cond, uncond = predictions(shape)
    regions = torch.rand((shape[0], 3, *shape[2:]))
    guided = uncond + 7.5 * (cond - uncond)
    torch.testing.assert_close(effective_scale(guided, cond, uncond, regions), torch.full((2, 3), 7.5).double())


def test_a_region_has_what_is_guided_in_it_and_what_is_beside_the_direction_does_not_count():
    cond, uncond = predictions()
    left = torch.zeros(2, 1, 6, 5)
    left[..., :2] = 1
    direction = cond - uncond
    aside = torch.randn_like(direction)
    for half in (left, 1 - left):
        part = half * aside
        aside = aside - half * direction * (part * direction).sum((1, 2, 3), True) / (half * direction**2).sum(
            (1, 2, 3), True)
    guided = uncond + (2 + 3 * left) * direction + aside
    scale = effective_scale(guided, cond, uncond, torch.cat([left, 1 - left], dim=1))
    torch.testing.assert_close(scale, torch.tensor([[5.0, 2.0]] * 2).double())


def test_the_norm_is_that_of_the_region():
    cond, _ = predictions()
    left = torch.zeros(2, 1, 6, 5)
    left[..., :2] = 1
    ratio = norm_ratio(cond * (1 + 2 * left), cond, torch.cat([left, 1 - left], dim=1))
    torch.testing.assert_close(ratio, torch.tensor([[3.0, 1.0]] * 2).double())


def test_where_there_is_nothing_there_is_no_number():
    cond, uncond = predictions()
    ones = torch.ones(2, 1, 6, 5)
    assert effective_scale(cond, cond, cond, ones).isnan().all()
    assert effective_scale(cond, cond, uncond, 0 * ones).isnan().all()
    assert norm_ratio(cond, cond, 0 * ones).isnan().all()


def test_values_at_the_ends_are_clipped():
    picture = torch.full((2, 4, 3), 0.5)
    picture[0, :2] = 1.0
    picture[1, 3, 0] = 0.0
    regions = torch.ones(3, 2, 4)
    regions[1, :, 2:] = 0
    regions[2] = 0
    shares = clipped_share(picture, regions)
    assert shares[:2].tolist() == pytest.approx([7 / 24, 6 / 12]) and shares[2].isnan()


@pytest.mark.parametrize(("values", "scale"), [
    ([0.2], (0, 1)), ([7.5], (0, 10)), ([14.6, float("nan")], (0, 15)), ([-3.0, 15.0], (-4, 16)), ([120.0], (0, 150)),
    ([1.3], (0, 1.5)), ([float("nan")], (0, 1)),
])
def test_a_plot_has_a_round_scale_that_holds_all(values, scale):
    assert whole_scale([Curve("", torch.tensor(values))]) == pytest.approx(scale)
