from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from semantic_guidance.guidance.smoothing import smooth

TAPS = torch.tensor([0.21194156, 0.57611688, 0.21194156], dtype=torch.float64)


def test_an_impulse_shows_the_kernel_of_the_papers():
    impulse = torch.zeros(5, 5, dtype=torch.float64)
    impulse[2, 2] = 1
    torch.testing.assert_close(smooth(impulse)[1:4, 1:4], torch.outer(TAPS, TAPS), atol=1e-7, rtol=0)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 2, 2), (4, 5, 7, 2), (1, 2, 2, 9)])
def test_equals_a_convolution_with_reflect_padding(shape):
    maps = torch.rand(shape, dtype=torch.float64)
    planes = maps.reshape(-1, 1, *shape[-2:])
    kernel = torch.outer(TAPS, TAPS)[None, None]
    expected = F.conv2d(F.pad(planes, (1, 1, 1, 1), mode="reflect"), kernel).reshape(shape)
    torch.testing.assert_close(smooth(maps), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1)])
def test_an_axis_of_one_position_is_left_alone(shape):
    line = torch.rand(max(shape), dtype=torch.float64)
    expected = smooth(line.expand(3, -1))[1].reshape(shape)
    torch.testing.assert_close(smooth(line.reshape(shape)), expected)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 1, 1), (1, 2)])
def test_a_constant_map_is_unchanged(shape):
    torch.testing.assert_close(smooth(torch.full(shape, 0.37)), torch.full(shape, 0.37))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_keeps_the_dtype(dtype):
    assert smooth(torch.rand(3, 4, 4).to(dtype)).dtype == dtype
