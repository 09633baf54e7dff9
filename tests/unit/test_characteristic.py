"""Characteristic guidance's solver against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semantic_guidance.guidance.characteristic import (
    MEMORY,
    Basis,
    regularization_at,
    solve,
    tolerance_length,
)


def maps(batch: int = 3, channels: int = 4):
    """A map of each image that contracts a little and bends, as f(k) = tanh(A k) + b."""
    generator = torch.Generator().manual_seed(0)
    matrix = 0.4 * torch.randn(batch, channels, channels, generator=generator, dtype=torch.float64)
    shift = torch.randn(batch, channels, generator=generator, dtype=torch.float64)
    return matrix, shift, bent(matrix, shift)


def bent(matrix, shift):
    return lambda parts: torch.tanh((matrix @ parts[..., None])[..., 0]) + shift


def test_the_fixed_point_is_that_of_plain_iteration():
    _, shift, corrected = maps()
    parts = shift
    for _ in range(2000):
        parts = 0.5 * parts + 0.5 * corrected(parts)
    found = solve(shift, corrected, 50, 1e-9)
    assert found.converged.all() and found.iterations < 40
    torch.testing.assert_close(found.parts, parts, atol=1e-7, rtol=0)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_each_iteration_is_andersons(iterations):
    """Image by image, by numpy, with all quantities written out."""
    matrix, shift, corrected = maps()
    found = solve(shift, corrected, iterations, 0.0)
    for image in range(len(shift)):
        tried, residuals = [np.zeros(4)], [shift[image].numpy()]
        for _ in range(iterations):
            past = range(max(0, len(tried) - 1 - MEMORY), len(tried) - 1)
            step = tried[-1] + residuals[-1]
            if past:
                of_residuals = np.stack([residuals[-1] - residuals[n] for n in past], axis=1)
                of_tried = np.stack([tried[-1] - tried[n] for n in past], axis=1)
                weights, *_ = np.linalg.lstsq(of_residuals, residuals[-1], rcond=None)
                step = step - (of_tried + of_residuals) @ weights
            tried.append(step)
            residuals.append(np.tanh(matrix[image].numpy() @ step) + shift[image].numpy() - step)
        np.testing.assert_allclose(found.parts[image].numpy(), tried[-1], atol=1e-9)


def test_a_batch_is_its_singles_and_what_has_converged_stays():
    matrix, shift, corrected = maps()
    shift[1] = 0  # converged at once
    seen = []

    def noting(parts):
        seen.append(parts.clone())
        return bent(matrix, shift)(parts)

    both = solve(shift, noting, 5, 1e-2)
    assert all(not parts[1].any() for parts in seen) and both.converged[1]
    for image in range(3):
        one = slice(image, image + 1)
        single = solve(shift[one], bent(matrix[one], shift[one]), 5, 1e-2)
        assert torch.equal(single.converged, both.converged[one])
        torch.testing.assert_close(single.parts, both.parts[one])


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_not_finite_or_runs_away_has_not_converged(broken):
    shift = torch.ones(2, 4, dtype=torch.float64)
    found = solve(shift, lambda parts: torch.stack([torch.full((4,), broken).double(), 0.5 * parts[1] + 1]), 20, 1e-6)
    assert found.converged.tolist() == [False, True]
    torch.testing.assert_close(found.parts[1], torch.full((4,), 2.0, dtype=torch.float64))
    assert not solve(torch.full((1, 4), broken).double(), lambda parts: parts, 3, 1e-6).converged.any()
    assert not solve(shift, lambda parts: parts + 1, 3, 1e-6).converged.any()
    assert solve(shift, lambda parts: parts, 0, 1e-6).iterations == 0


def test_the_basis_is_orthonormal_and_empty_where_nothing_is_guided():
    direction = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    direction[1, 2] = 0
    basis = Basis(direction)
    parts = torch.arange(8.0).view(2, 4)
    expected = parts.clone()
    expected[1, 2] = 0
    torch.testing.assert_close(basis.parts(basis.whole(parts)), expected)
    torch.testing.assert_close(basis.whole(basis.parts(direction)), direction)


def test_the_ridge_fades_as_the_picture_appears():
    assert regularization_at(5.0, 0.1, 0.1) == 5.0 == regularization_at(5.0, 0.0, 0.1)
    alpha_bar = [ratio**2 / (1 + ratio**2) for ratio in (0.1, 2.0)]
    assert regularization_at(5.0, 2.0, 0.1) == pytest.approx(5 * alpha_bar[0] / alpha_bar[1])
    assert tolerance_length(0.01, 1.0, 3.0, 16) == pytest.approx(0.01 * 10**0.5 * 4)
