"""The schedules' formulas."""

from __future__ import annotations

import math

import pytest
import torch

from semantic_guidance.guidance.schedules import SHAPES, cfgpp_scale, clamped, powered_cosine


@pytest.mark.parametrize(("name", "values"), [  # at progress 0, 1/4, 1/2, 3/4, 1
    ("constant", [1, 1, 1, 1, 1]),
    ("linear", [0, 0.5, 1, 1.5, 2]),
    ("inverse linear", [2, 1.5, 1, 0.5, 0]),
    ("cosine", [0, 1 - math.sqrt(0.5), 1, 1 + math.sqrt(0.5), 2]),
    ("inverse cosine", [2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0]),
    ("V", [2, 1, 0, 1, 2]),
    ("Lambda", [0, 1, 2, 1, 0]),
])
def test_a_shape_has_the_papers_values_and_the_mean_1(name, values):
    assert [SHAPES[name](quarter / 4) for quarter in range(5)] == pytest.approx(values)
    assert sum(SHAPES[name]((n + 0.5) / 1000) for n in range(1000)) / 1000 == pytest.approx(1)


def test_no_shape_is_left_out():
    assert len(SHAPES) == 7


@pytest.mark.parametrize("power", [0.1, 1.0, 3.0])
def test_the_powered_cosine_is_the_cosine_of_a_power(power):
    assert powered_cosine(0.0, power) == 0 and powered_cosine(1.0, power) == pytest.approx(1)
    assert powered_cosine(0.3, power) == pytest.approx(0.5 * (1 - math.cos(math.pi * 0.3**power)))


def test_a_clamp_bounds_a_weight_from_below():
    assert [clamped(weight, 2.0) for weight in (0.0, 2.0, 6.5)] == [2.0, 2.0, 6.5]


@pytest.mark.parametrize(("sigma", "following", "flow"), [(7.0, 3.0, False), (0.9, 0.6, True), (2.0, 0.0, False)])
def test_eulers_step_with_the_scale_is_that_of_cfgpp(sigma, following, flow):
    """x' = a' D_l + s' (x - a D_u) / s, the paper's step, where x = a x0 + s noise."""
    generator = torch.Generator().manual_seed(0)
    x, uncond, cond = torch.randn(3, 64, generator=generator, dtype=torch.float64)
    alpha, next_alpha = (1 - sigma, 1 - following) if flow else (1.0, 1.0)
    guided = uncond + 0.6 * (cond - uncond)
    expected = next_alpha * guided + following * (x - alpha * uncond) / sigma
    euler = uncond + cfgpp_scale(0.6, sigma, following, flow) * (cond - uncond)
    torch.testing.assert_close(euler + following / sigma * (x - euler), expected)
