"""The losses beside Attend-and-Excite's own, and Polyak's step, against plain loops over positions in float64."""

from __future__ import annotations

import math

import pytest
import torch

from semantic_guidance.guidance.attend_excite import Excitation, Seen, Step, excite, losses
from semantic_guidance.guidance.attention_losses import (
    attended,
    inside_loss,
    noised_again,
    overlap_loss,
    polyak_rate,
    size_loss,
)

BATCH, SUBJECTS, POSITIONS = 2, 3, 20


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradient(loss, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    maps = maps.clone().requires_grad_()
    value = loss(maps)
    return value.detach(), torch.autograd.grad(value.sum(), maps)[0]


def plain_overlap(cross: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Of one image: cross [subjects, P], own [P, P]."""
    total = 0
    spread = [sum(cross[i, x] * own[x] for x in range(POSITIONS)) for i in range(SUBJECTS)]
    for i in range(SUBJECTS):
        for j in range(SUBJECTS):
            for y in range(POSITIONS if i != j else 0):
                total = total + min(spread[i][y] / spread[i].sum(), cross[j, y] / cross[j].sum())
    return total


def plain_inside(maps: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Of one image: maps [subjects, P], region [P]."""
    values = []
    for subject in maps:
        inner = sorted((subject[p] for p in range(POSITIONS) if region[p]), reverse=True)
        outer = sorted((subject[p] for p in range(POSITIONS) if not region[p]), reverse=True)
        value = torch.ones((), dtype=maps.dtype)
        if inner:
            count = max(1, math.ceil(0.2 * len(inner)))
            value = value - sum(inner[:count]) / count
        if outer:
            count = max(1, math.ceil(0.2 * len(outer)))
            value = value + sum(outer[:count]) / count
        values.append(value)
    return torch.stack(values)


def test_overlap_and_its_gradient_are_those_of_a_plain_loop():
    own = uniform(BATCH, POSITIONS, POSITIONS, seed=1).softmax(-1)
    value, gradient = with_gradient(lambda cross: overlap_loss(attended(cross, own), cross), uniform(2, 3, 20))
    expected, by_hand = with_gradient(
        lambda cross: torch.stack([plain_overlap(*image) for image in zip(cross, own, strict=True)]), uniform(2, 3, 20)
    )
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, by_hand)


def test_subjects_at_the_same_places_overlap_wholly_and_apart_not_at_all():
    own = torch.eye(4, dtype=torch.float64)[None]
    same = torch.tensor([[[1.0, 0, 0, 0], [2.0, 0, 0, 0]]], dtype=torch.float64)
    apart = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 0, 1.0]]], dtype=torch.float64)
    assert overlap_loss(attended(same, own), same).tolist() == [2]
    assert overlap_loss(attended(apart, own), apart).tolist() == [0]
    assert overlap_loss(torch.zeros_like(same), torch.zeros_like(same)).tolist() == [0]


@pytest.mark.parametrize("cells", [1, 4, 7, 19, 20])
def test_inside_and_its_gradient_are_those_of_a_plain_loop(cells):
    region = torch.stack([torch.arange(POSITIONS) < cells, torch.arange(POSITIONS) >= POSITIONS - cells])
    value, gradient = with_gradient(lambda maps: inside_loss(maps, region), uniform(2, 3, 20))
    expected, by_hand = with_gradient(
        lambda maps: torch.stack([plain_inside(*image) for image in zip(maps, region, strict=True)]), uniform(2, 3, 20)
    )
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, by_hand)
    perfect = region[:, None].double().expand(2, 3, 20)
    assert inside_loss(perfect, region).abs().max() == 0


def test_size_and_its_gradient_are_those_of_a_plain_loop():
    maps = uniform(2, 3, 20)
    value, gradient = with_gradient(lambda maps: size_loss(maps, 0.5), maps)
    for image in range(BATCH):
        for subject in range(SUBJECTS):
            mean = sum(maps[image, subject].tolist()) / POSITIONS
            assert value[image, subject].item() == pytest.approx(abs(mean - 0.5), abs=1e-12)
            slope = (1 if mean > 0.5 else -1) / POSITIONS
            assert gradient[image, subject].tolist() == pytest.approx([slope] * POSITIONS)


@pytest.mark.parametrize("factor", [1.0, 14.6])
def test_polyaks_step_is_the_same_for_a_latent_of_any_scale(factor):
    """rho = eta |eps| / |g|^2 on z, and on x = factor z."""
    gradient, noise, eta = uniform(2, 4, 3, 3, seed=2), torch.tensor([6.0, 5.0], dtype=torch.float64), 0.3
    moves = [
        -eta * noise[image] / sum(g**2 for g in gradient[image].flatten().tolist()) * gradient[image]
        for image in range(2)
    ]
    of_x = gradient / factor
    move = -polyak_rate(noise, of_x, eta).view(2, 1, 1, 1) * of_x
    torch.testing.assert_close(move / factor, torch.stack(moves))
    assert polyak_rate(noise, torch.zeros_like(gradient), eta).tolist() == [0, 0]


def test_a_step_moves_by_polyaks_rule_up_to_the_limit():
    x, gradient = torch.ones(2, 1, 4), torch.zeros(2, 1, 4)
    gradient[0, 0, 0], gradient[1, 0, 0] = 0.5, 1e-6

    def evaluate(x):
        loss = torch.ones(2)
        return Seen(torch.zeros(2, 1), loss, loss[:, None], gradient)

    settings = Excitation(polyak=0.01, limit=0.1)
    result = excite(x, 215.0, Step(20.0, None), settings, evaluate, noise=torch.full((2,), 2.0))
    torch.testing.assert_close((x - result.x)[:, 0, 0], torch.tensor([0.04, 0.2]))
    assert (x - result.x)[:, 0, 1:].abs().max() == 0


def test_all_seen_is_no_loss_once_it_is_enough():
    peaks = torch.tensor([[0.6, 0.9], [0.8, 0.7], [0.7, 0.7]], requires_grad=True)
    value = losses(peaks, enough=0.7)
    torch.testing.assert_close(value, torch.tensor([0.4, 0.0, 0.0]))
    (gradient,) = torch.autograd.grad(value.sum(), peaks)
    assert gradient.tolist() == [[-1, 0], [0, 0], [0, 0]]
    assert torch.equal(losses(peaks), losses(peaks, enough=1.0))


def test_refinement_goes_by_what_is_left_out_and_the_last_move_by_all_losses():
    seen = Seen(torch.ones(1, 1), torch.zeros(1), torch.tensor([[0.0, 0.3]]), torch.ones(1, 1, 4))
    result = excite(torch.ones(1, 1, 4), 1.0, Step(0.01, 0.2), Excitation(), lambda x: seen)
    assert result.refinements.tolist() == [0]
    torch.testing.assert_close(result.x, torch.full((1, 1, 4), 0.99))
    torch.testing.assert_close(result.values, torch.tensor([[[0.0, 0.3]]]))


@pytest.mark.parametrize(("before", "now"), [
    ((1.0, 9.0), (1.0, 4.0)), ((0.2, 0.8), (0.6, 0.4)), ((0.0, 1.0), (0.1, 0.9)),
])
def test_a_latent_noised_again_is_as_if_drawn_at_that_level(before, now):
    """Exact in the mean; the variance of the two noises adds up to that of the level."""
    image, noise, fresh = torch.randn(3, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = noised_again(now[0] * image + now[1] * noise, fresh, before, now)
    again = x - before[0] * image
    assert again.std().item() == pytest.approx(before[1], rel=1e-2)
    assert abs((again * image).mean().item()) < 0.02 * before[1]
    z, a, a_next = x * 0 + 2.0, 0.3, 0.5  # for latents of variance 1, as the paper writes it
    expected = math.sqrt(a / a_next) * z + math.sqrt(1 - a / a_next) * fresh
    levels = (math.sqrt(a), math.sqrt(1 - a)), (math.sqrt(a_next), math.sqrt(1 - a_next))
    torch.testing.assert_close(noised_again(z, fresh, *levels), expected)
