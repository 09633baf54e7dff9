from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semantic_guidance.guidance import attention_maps, scfg
from semantic_guidance.guidance.smoothing import smooth

GOLDEN = Path(__file__).parents[1] / "golden" / "scfg_case0.npz"
GRID, LATENT = (8, 8), (32, 32)


def attention(batch: int, positions: int, keys: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(batch, positions, keys, generator=generator, dtype=torch.float64)).softmax(-1)


def predictions(batch: int = 2, size: tuple[int, ...] = LATENT, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    uncond, cond = torch.randn(2, batch, 4, *size, generator=generator)
    return uncond, uncond + cond * torch.linspace(0.1, 3, size[-1])


def partition(owner: torch.Tensor, regions: int) -> scfg.Partition:
    """Of one prompt that acts everywhere; owner [B, 1, *size]."""
    return scfg.Partition(owner, torch.ones(owner.shape), regions)


def stripes(batch: int, regions: int, size: tuple[int, ...] = LATENT) -> scfg.Partition:
    """The picture divided into columns."""
    return partition((torch.arange(size[-1]) * regions // size[-1]).expand(batch, 1, *size), regions)


def stripe(batch: int, regions: int, number: int, size: tuple[int, ...] = LATENT) -> torch.Tensor:
    """1 in one of these columns, [B, 1, *size]."""
    return (stripes(batch, regions, size).owner == number).float()


def layers_of(golden) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (torch.from_numpy(golden[name]).double(), torch.from_numpy(golden[name.replace("self", "cross")]).double())
        for name in sorted(golden.files) if name.startswith("self")
    ]


def whole_method(layers, uncond, cond, scale, grid=GRID):
    """Everything from attention to guided prediction: token regions, foreground, rate map and result."""
    batch = uncond.shape[0]
    tokens, pair = 0, 0
    for self_attention, cross_attention in layers:
        side = int(self_attention.shape[1] ** 0.5)
        completed = attention_maps.complete(self_attention, cross_attention, "as released")
        maps = attention_maps.to_grid(completed, (side, side), grid)
        tokens = tokens + attention_maps.normalise(maps[batch:]) / len(layers)
        rest = maps[:batch, 1:].sum(dim=1, keepdim=True)
        pair = pair + scfg.foreground_pair(maps[:batch, :1], rest) / len(layers)
    owner = attention_maps.enlarge(scfg.assign_tokens(tokens), uncond.shape[-2:])
    foreground = attention_maps.enlarge(scfg.foreground(pair), uncond.shape[-2:])
    regions = partition(owner, tokens.shape[1])
    rate = scfg.rate_map([scfg.region_rates(cond - uncond, regions, foreground)], [regions], scale)
    return owner, foreground, rate, scfg.guide(uncond + scale * (cond - uncond), cond, uncond, rate, scale)


def test_equals_the_authors_code():
    golden = np.load(GOLDEN)
    uncond, cond = torch.from_numpy(golden["eps_u"]).double(), torch.from_numpy(golden["eps_c"]).double()
    layers = layers_of(golden)
    assert [s.shape[1] for s, _ in layers] == [64, 64, 16]
    owner, foreground, rate, eps = whole_method(layers, uncond, cond, float(golden["w"]))
    np.testing.assert_array_equal(owner == torch.arange(77)[:, None, None], golden["mask"])
    np.testing.assert_array_equal(foreground, golden["fg"])
    np.testing.assert_allclose(rate, golden["rate"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(eps, golden["eps"], atol=1e-5, rtol=0)


def test_completion_is_what_its_name_says():
    s, c = attention(2, 20, 20), attention(2, 20, 7, seed=1)
    square = s @ s
    expected = {
        "as released": (s + 3 * square) @ c / 4,
        "power series": (s + square + square @ s + square @ square) @ c / 4,
        "none": c,
    }
    assert set(expected) == set(attention_maps.COMPLETIONS)
    for completion, maps in expected.items():
        torch.testing.assert_close(attention_maps.complete(s, c, completion), maps)
    assert (expected["as released"] - expected["power series"]).abs().max() > 1e-4


@pytest.mark.parametrize("completion", attention_maps.COMPLETIONS)
def test_completion_keeps_rows_that_sum_to_one(completion):
    maps = attention_maps.complete(attention(1, 12, 12), attention(1, 12, 5, seed=1), completion)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(1, 12, dtype=maps.dtype))


def test_maps_lie_on_the_grid_as_the_positions_do():
    maps = torch.zeros(1, 6, 2)
    maps[0, 4, 1] = 1.0  # the fifth of 2 x 3 positions, row by row
    assert attention_maps.to_grid(maps, (2, 3), (2, 3))[0, 1].argmax() == 4
    maps = torch.zeros(1, 9, 2)
    maps[0, 4, 1] = 1.0
    assert attention_maps.to_grid(maps, (3, 3), (9, 15))[0, 1].argmax() == 4 * 15 + 7  # the centre stays the centre


def test_normalised_maps_have_mean_one():
    maps = torch.rand(2, 5, 6, 7) * torch.arange(1, 6)[:, None, None]
    torch.testing.assert_close(attention_maps.normalise(maps).mean(dim=(2, 3)), torch.ones(2, 5))


def test_each_position_belongs_to_its_strongest_token_and_a_tie_to_the_first():
    maps = torch.tensor([[0.1, 0.7, 0.4], [0.9, 0.2, 0.4]]).view(1, 2, 1, 3)
    assert scfg.assign_tokens(maps).tolist() == [[[[1, 0, 0]]]]


def test_the_start_token_wins_a_tie_for_the_background():
    pair = torch.tensor([[1.0, 1.0, 2.0], [1.0, 2.0, 1.0]]).view(1, 2, 1, 3)
    assert scfg.foreground(pair).flatten().tolist() == [False, True, False]


@pytest.mark.parametrize("size", [LATENT, (3, 8, 12)])
def test_a_uniform_difference_needs_no_correction(size):
    difference = torch.full((2, 4, *size), 0.3)
    regions = stripes(2, 5, size)
    rates = scfg.region_rates(difference, regions, stripe(2, 2, 0, size))
    torch.testing.assert_close(rates, torch.ones(2, 5))
    rate = scfg.rate_map([rates], [regions], cfg_scale=3.0)
    torch.testing.assert_close(rate, torch.ones(2, 1, *size))
    torch.testing.assert_close(scfg.guide(difference, 1 + difference, torch.ones(()), rate, 3.0), difference)


@pytest.mark.parametrize("size", [LATENT, (3, 8, 12)])
def test_all_regions_are_brought_to_the_norm_of_the_reference(size):
    """In video one rate for a region in all frames."""
    uncond, cond = predictions(size=size)
    regions, reference = stripes(2, 4, size), stripe(2, 3, 1, size)
    norm = (cond - uncond).norm(dim=1, keepdim=True)
    rates = scfg.region_rates(cond - uncond, regions, reference)
    level = (norm * reference).flatten(1).sum(dim=1) / reference.flatten(1).sum(dim=1)
    for number in range(4):
        inside = regions.owner == number
        mean = (norm * inside).flatten(1).sum(dim=1) / inside.flatten(1).sum(dim=1)
        torch.testing.assert_close(rates[:, number] * mean, level)


@pytest.mark.parametrize("factor", [1e-2, 7.0, 300.0])
def test_only_ratios_of_the_difference_count(factor):
    uncond, cond = predictions()
    regions, reference = stripes(2, 4), stripe(2, 2, 0)
    rates = scfg.region_rates(cond - uncond, regions, reference)
    found = scfg.region_rates(factor * (cond - uncond), regions, reference)
    torch.testing.assert_close(found, rates, rtol=1e-5, atol=0)  # what guards against zero is 1e-8 beside 1e-2


def test_an_empty_region_has_rate_zero_and_disturbs_no_other():
    uncond, cond = predictions()
    regions, reference = stripes(2, 4), stripe(2, 2, 0)
    with_empty = regions._replace(regions=5)
    rates = scfg.region_rates(cond - uncond, with_empty, reference)
    assert torch.equal(rates[:, 4], torch.zeros(2))
    alone = scfg.region_rates(cond - uncond, regions, reference)
    assert torch.equal(scfg.rate_map([rates], [with_empty], 5.0), scfg.rate_map([alone], [regions], 5.0))


def test_two_prompts_have_their_regions_where_they_count():
    """The rate at a position is the mean of its regions' rates, by the shares of their prompts."""
    uncond, cond = predictions()
    reference = stripe(2, 2, 0)
    share = torch.rand(2, 1, *LATENT, generator=torch.Generator().manual_seed(1))
    one, other = stripes(2, 4)._replace(share=share), stripes(2, 3)._replace(share=1 - share)
    rates = [scfg.region_rates(cond - uncond, regions, reference) for regions in (one, other)]
    norm = (cond - uncond).norm(dim=1, keepdim=True)
    weight = (other.owner == 1) * other.share
    mean = (norm * weight).flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1)
    level = (norm * reference).flatten(1).sum(dim=1) / reference.flatten(1).sum(dim=1)
    torch.testing.assert_close(rates[1][:, 1], level / mean)
    together = scfg.rate_map(rates, [one, other], 5.0, 0.0, 100.0, 0.0)
    each = [rate[:, 0, None, None].new_zeros(2, 1, *LATENT) for rate in rates]
    for number, regions in enumerate((one, other)):
        for region in range(regions.regions):
            each[number] += (regions.owner == region) * rates[number][:, region, None, None, None]
    torch.testing.assert_close(together, smooth(share * each[0] + (1 - share) * each[1]))


def test_sums_over_many_regions_are_made_in_parts(monkeypatch):
    uncond, cond = predictions()
    regions, reference = stripes(2, 7), stripe(2, 2, 0)
    expected = scfg.region_rates(cond - uncond, regions, reference)
    monkeypatch.setattr(scfg, "COMPARED", 3 * regions.owner.numel())
    assert torch.equal(scfg.region_rates(cond - uncond, regions, reference), expected)


def test_an_empty_foreground_lowers_every_rate_to_the_minimum():
    """As in the authors' code: no foreground means level 0."""
    uncond, cond = predictions()
    regions = stripes(2, 4)
    rates = scfg.region_rates(cond - uncond, regions, torch.zeros(2, 1, *LATENT))
    torch.testing.assert_close(scfg.rate_map([rates], [regions], 5.0), torch.full((2, 1, *LATENT), 0.8))


def test_a_full_foreground_is_the_whole_image():
    uncond, cond = predictions()
    rates = scfg.region_rates(cond - uncond, stripes(2, 1), torch.ones(2, 1, *LATENT))
    torch.testing.assert_close(rates, torch.ones(2, 1))


@pytest.mark.parametrize(("scale", "rate", "expected"), [
    (5.0, 0.1, 0.8), (5.0, 9.0, 3.0), (7.5, 9.0, 2.0), (25.0, 0.1, 0.6), (25.0, 9.0, 0.6),
])
def test_limits_of_the_paper(scale, rate, expected):
    """At cfg 7.5 the cap of 15 allows a rate of 2; at 25 it wins over the minimum."""
    found = scfg.rate_map([torch.tensor([[rate]])], [stripes(1, 1, (6, 6))], scale)
    torch.testing.assert_close(found, torch.full((1, 1, 6, 6), expected))


def test_limits_can_be_set_and_the_cap_removed():
    regions, rates = stripes(1, 2, (4, 8)), torch.tensor([[0.2, 9.0]])
    rate = scfg.rate_map([rates], [regions], 25.0, rate_min=0.5, rate_max=4.0, scale_cap=0.0)
    assert (rate[..., 0].unique().item(), rate[..., -1].unique().item()) == pytest.approx((0.5, 4.0))


def test_a_batch_equals_its_singles():
    uncond, cond = predictions(batch=3)
    layers = [(attention(6, n, n, seed=n).float(), attention(6, n, 77, seed=n + 1).float()) for n in (64, 64, 16)]
    together = whole_method(layers, uncond, cond, 7.5)
    for image in range(3):
        mine = [(s[[image, 3 + image]], c[[image, 3 + image]]) for s, c in layers]
        single = whole_method(mine, uncond[image : image + 1], cond[image : image + 1], 7.5)
        for whole, one in zip(together, single, strict=True):
            torch.testing.assert_close(whole[image : image + 1], one)


@pytest.mark.parametrize(("grid", "latent"), [((9, 11), (36, 44)), ((5, 9), (19, 33)), ((1, 3), (4, 11))])
def test_odd_sizes(grid, latent):
    uncond, cond = predictions(1, latent)
    maps = attention_maps.to_grid(attention(1, 3 * 2, 5), (3, 2), grid)
    owner = attention_maps.enlarge(scfg.assign_tokens(attention_maps.normalise(maps)), latent)
    assert owner.shape == (1, 1, *latent)
    regions = partition(owner, 5)
    rates = scfg.region_rates(cond - uncond, regions, torch.ones(1, 1, *latent))
    rate = scfg.rate_map([rates], [regions], 4.0)
    assert rate.shape == (1, 1, *latent)
    assert 0.8 <= rate.min() < rate.max() <= 3.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions(dtype):
    uncond, cond = (p.to(dtype) for p in predictions())
    regions = stripes(2, 4)
    regions = regions._replace(share=regions.share.float())
    rates = scfg.region_rates(cond - uncond, regions, stripe(2, 2, 0))
    assert rates.dtype == torch.float32
    guided = scfg.guide(uncond + 5 * (cond - uncond), cond, uncond, scfg.rate_map([rates], [regions], 5.0), 5.0)
    assert guided.dtype == dtype
    assert guided.isfinite().all()


def test_frames_of_a_clip_are_smoothed_apart_and_normalised_together():
    maps = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(0)).repeat(1, 4, 1)  # 5 frames alike
    clip = attention_maps.to_grid(maps, (5, 2, 2), (5, 4, 6))
    frame = attention_maps.to_grid(maps.unflatten(1, (5, 4))[:, 2], (2, 2), (4, 6))
    torch.testing.assert_close(clip[:, :, 2], frame)
    torch.testing.assert_close(attention_maps.normalise(clip).mean(dim=(2, 3, 4)), torch.ones(1, 6))
    enlarged = attention_maps.enlarge(clip, (9, 8, 11))
    assert enlarged.shape == (1, 6, 9, 8, 11)
    torch.testing.assert_close(enlarged[:, :, 4], F.interpolate(clip[:, :, 2], (8, 11), mode="nearest"))
