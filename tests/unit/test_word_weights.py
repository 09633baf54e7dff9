"""Weights of tokens inside attention against a softmax with their logarithm added, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from semantic_guidance.guidance import word_weights
from semantic_guidance.guidance.word_weights import (
    Inputs,
    group_mean,
    group_probabilities,
    mixed,
    repeated,
    runs,
    scaled,
    way,
    weigh,
)

B, HEADS, Q, K, D = 2, 4, 20, 33, 8
ONE, TWO = (3, 7, 8), (20, 21)
MASKS = {
    "none": None,
    "additive": lambda: torch.randn(Q, K, dtype=torch.float64),
    "of keys": lambda: torch.randn(1, 1, 1, K, dtype=torch.float64),
    "of images": lambda: torch.randn(B, 1, K, dtype=torch.float64),
    "of heads": lambda: torch.randn(B, HEADS, Q, K, dtype=torch.float64),
    "bool": lambda: torch.rand(B, 1, 1, K) < 0.8,
    "bool of queries": lambda: torch.rand(1, Q, K) < 0.8,
    "hides a group": lambda: torch.zeros(1, K, dtype=torch.float64).index_fill(1, torch.tensor(ONE), -math.inf),
}


def inputs(kv_heads: int = HEADS, mask=None, dtype=torch.float64, scale=None) -> Inputs:
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, heads, length, D, dtype=torch.float64)
               for heads, length in ((HEADS, Q), (kv_heads, K), (kv_heads, K)))
    mask = mask and mask()
    mask = mask if mask is None or mask.dtype == torch.bool else mask.to(dtype)
    return Inputs((1.5 * q).to(dtype), k.to(dtype), v.to(dtype), mask, scale)


class Backend:
    """What a host's attention function does; counts its calls and the keys of each."""

    def __init__(self):
        self.keys = []

    def __call__(self, given: Inputs):
        self.keys.append(given.k.shape[2])
        k, v = (t.repeat_interleave(given.q.shape[1] // t.shape[1], dim=1) for t in (given.k, given.v))
        mask = given.mask
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        return F.scaled_dot_product_attention(given.q, k, v, mask, scale=given.scale)


def expected(given: Inputs, weights) -> torch.Tensor:
    """weights: [B or 1, 1, Q or 1, K] in float64, any sign."""
    q, k, v = (t.double() for t in given[:3])
    k, v = (t.repeat_interleave(HEADS // t.shape[1], dim=1) for t in (k, v))
    scores = q @ k.mT * (D**-0.5 if given.scale is None else given.scale)
    if given.mask is not None:
        mask = given.mask
        mask = torch.zeros(mask.shape).double().masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
        scores = scores + (mask if mask.ndim == 4 else mask.reshape(-1, 1, *mask.shape[-2:]))
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    return (weights * e) @ v / (weights.abs() * e).sum(-1, keepdim=True)


def by_column(one, two=1.0) -> torch.Tensor:
    weights = torch.ones(1, 1, 1, K, dtype=torch.float64)
    weights[..., ONE], weights[..., TWO] = one, two
    return weights


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kv_heads", [HEADS, 2, 1])
@pytest.mark.parametrize(("one", "two"), [(2.0, 1.0), (0.0, 3.0), (0.3, 2.5), (-1.0, 2.0), (-0.5, 4.0), (0.0, 0.0)])
def test_every_form_is_the_softmax_with_weights(mask, kv_heads, one, two):
    given, backend = inputs(kv_heads, MASKS[mask]), Backend()
    groups = [(ONE, one), (TWO, two)]
    wanted = expected(given, by_column(one, two))
    forms = [scaled, mixed, weigh] + ([repeated] if one == int(one) and two == int(two) else [])
    for form in forms:
        torch.testing.assert_close(form(backend, given, groups), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mask", ["none", "of images", "bool of queries"])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_weights_by_query_and_image(mask, scale):
    given = inputs(2, MASKS[mask], scale=scale)
    by_query, of_all = 4 * torch.rand(B, Q).double(), torch.randn(1, Q).double()
    weights = torch.ones(B, 1, Q, K, dtype=torch.float64)
    weights[..., ONE], weights[..., TWO] = by_query[:, None, :, None], of_all[:, None, :, None]
    found = weigh(Backend(), given, [(ONE, by_query), (TWO, of_all)])
    torch.testing.assert_close(found, expected(given, weights), rtol=1e-9, atol=1e-9)


def test_whole_weights_agree_in_single_precision():
    given, backend = inputs(dtype=torch.float32), Backend()
    groups = [(ONE, 3.0), (TWO, 0.0)]
    found = [form(backend, given, groups) for form in (repeated, scaled, mixed)]
    for one in found:
        assert (one - found[0]).abs().max() < 1e-5
        assert (one - expected(given, by_column(3.0, 0.0))).abs().max() < 1e-5


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
@pytest.mark.parametrize("weight", [0.0, 0.3, 2.5])
def test_half_precision_is_as_good_as_the_backends(dtype, bound, weight):
    given = inputs(dtype=dtype)
    for form in (scaled, mixed):
        found = form(Backend(), given, [(ONE, weight)])
        assert found.dtype == dtype
        assert (found.double() - expected(given, by_column(weight))).abs().max() < bound


def test_nothing_at_weight_1_and_what_each_way_costs():
    given, backend = inputs(), Backend()
    assert torch.equal(weigh(backend, given, [(ONE, 1.0), ((), 5.0)]), Backend()(given))
    assert backend.keys == [K]
    for weight, keys in [(0.0, [K - 3]), (2.0, [K + 3]), (-1.0, [K]), (1.5, [K, K]), (12.0, [K, K]),
                         (torch.ones(1, Q), [K, K - 3])]:
        backend = Backend()
        weigh(backend, given, [(ONE, weight)])
        assert backend.keys == keys
    assert [way([(ONE, w)], K) for w in (1.0, 2.0, 2.5, torch.ones(1, 1))] == ["plain", "repeated", "scaled", "mixed"]


@pytest.mark.parametrize("mask", MASKS)
def test_probabilities_of_a_partition_sum_to_1(mask):
    given = inputs(2, MASKS[mask])
    groups = [tuple(range(first, K, 11)) for first in range(11)]  # more than d
    found = group_probabilities(Backend(), given, groups)
    torch.testing.assert_close(found.sum(-1), torch.ones(B, HEADS, Q).double(), rtol=0, atol=1e-12)


def test_a_group_alone():
    given = inputs(2, MASKS["additive"])
    weights = torch.zeros(1, 1, 1, K, dtype=torch.float64)
    weights[..., ONE] = 1
    torch.testing.assert_close(group_mean(given, ONE), expected(given, weights), rtol=1e-9, atol=1e-9)


def test_weights_0_for_all_others_and_for_all():
    given = inputs()
    others = [column for column in range(K) if column not in ONE]
    wanted = group_mean(given, ONE)
    for form in (repeated, scaled, mixed):
        torch.testing.assert_close(form(Backend(), given, [(others, 0.0)]), wanted, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="no token is left"):
        weigh(Backend(), given, [(tuple(range(K)), 0.0)])
    everything = mixed(Backend(), given, [(others, torch.ones(1, Q)), (ONE, 2.0)])
    torch.testing.assert_close(everything, expected(given, by_column(2.0)), rtol=1e-9, atol=1e-9)


def test_queries_go_in_blocks_under_the_budget():
    given, backend = inputs(), Backend()
    row = 4 * 4 * B * HEADS * D
    groups = [(ONE, torch.rand(1, Q).double()), (TWO, 0.5)]
    found = mixed(backend, given, groups, memory=6 * row)
    assert backend.keys == 4 * [K, K - 5]
    torch.testing.assert_close(found, mixed(Backend(), given, groups), rtol=1e-12, atol=1e-12)
    assert word_weights.MEMORY == 64 * 2**20


def test_a_gradient_goes_through_every_form():
    for form, weight in ((repeated, 2.0), (scaled, 0.5), (mixed, torch.rand(1, Q).double())):
        given = inputs()
        given.q.requires_grad_()
        (gradient,) = torch.autograd.grad(form(Backend(), given, [(ONE, weight)]).square().sum(), given.q)
        weights = by_column(1.0).expand(1, 1, Q, K).clone()
        weights[..., ONE] = weight[:, None, :, None] if isinstance(weight, torch.Tensor) else weight
        (wanted,) = torch.autograd.grad(expected(given, weights).square().sum(), given.q)
        torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-8)


def test_runs():
    assert runs([5, 1, 2, 3, 9]) == [slice(1, 4), slice(5, 6), slice(9, 10)]
    assert runs([]) == []
