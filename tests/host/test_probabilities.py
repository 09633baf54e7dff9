from __future__ import annotations

import comfy.ldm.modules.attention as host_attention
import pytest
import torch
from host import tiny
from host.scfg_runs import relative, run, with_regions, with_scfg
from torch.utils._python_dispatch import TorchDispatchMode

from semantic_guidance.attention_hooks import probabilities
from semantic_guidance.attention_hooks.families import layers_at, model_family, model_layers
from semantic_guidance.attention_hooks.layouts import Layer
from semantic_guidance.attention_hooks.probabilities import Attention, SelfAttention, attention_of, fold_repeats

HEADS, WIDTH = 3, 8


def queries_and_keys(positions: int = 20, keys: int = 20, batch: int = 2, dtype=torch.float64) -> Attention:
    generator = torch.Generator().manual_seed(0)
    q = 2 * torch.randn(batch, HEADS, positions, WIDTH, generator=generator)
    k = 2 * torch.randn(batch, HEADS, keys, WIDTH, generator=generator)
    return Attention(q.to(dtype), k.to(dtype))


def limit(monkeypatch, budget: int) -> None:
    monkeypatch.setitem(probabilities.BUDGET, "cpu", budget)


def explicit(seen: Attention) -> torch.Tensor:
    """The mean over heads of softmax(scale q k^T + mask)."""
    k = seen.k.repeat_interleave(seen.q.shape[1] // seen.k.shape[1], dim=1)
    scores = seen.q @ k.mT * (seen.scale or seen.q.shape[-1] ** -0.5)
    return (scores if seen.mask is None else scores + seen.mask).softmax(-1).mean(1)


@pytest.mark.parametrize("budget", [1, 4 * 4 * 2 * HEADS * 20 * 7, 2**30])
def test_blocks_of_any_size_give_the_explicit_softmax(monkeypatch, budget):
    limit(monkeypatch, budget)
    seen = queries_and_keys()
    assert len(list(seen.rows())) == {1: 20, 2**30: 1}.get(budget, 3)
    torch.testing.assert_close(seen.probabilities(), explicit(seen))
    maps = torch.rand(2, 20, 5).double()
    torch.testing.assert_close(SelfAttention(seen) @ maps, explicit(seen) @ maps)


def test_selected_rows_are_those_of_the_whole():
    seen = queries_and_keys(batch=4)
    torch.testing.assert_close(seen.select(slice(1, 3)).probabilities(), explicit(seen)[1:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_queries_are_read_in_float32(dtype):
    seen = queries_and_keys()
    half = Attention(seen.q.to(dtype), seen.k.to(dtype))
    assert half.probabilities().dtype == torch.float32
    assert torch.equal(half.probabilities(), Attention(half.q.float(), half.k.float()).probabilities())


@pytest.mark.parametrize("heads", [HEADS, 1])
@pytest.mark.parametrize("given", [
    {}, {"scale": 0.7}, {"mask": (20, 20)}, {"mask": (2, 1, 20)}, {"mask": (1, 1, 20, 20), "scale": 0.3},
    {"mask": (2, HEADS, 20, 20)}, {"mask": (20, 20), "bool": True}, {"mask": (2, 1, 1, 20), "bool": True},
])
@pytest.mark.parametrize("reshaped", [True, False])
def test_calls_of_attention_are_read_as_pytorch_reads_them(heads, given, reshaped):
    """Shared keys, masks of every shape, scales: against PyTorch's attention to values that tell the probabilities."""
    seen = queries_and_keys()
    k = seen.k[:, :heads]
    options = {name: value for name, value in given.items() if name == "scale"} | {"enable_gqa": heads < HEADS}
    mask = None
    if "mask" in given:
        mask = torch.randn(given["mask"], generator=torch.Generator().manual_seed(1))
        mask = mask > -0.5 if "bool" in given else 3 * mask.double()
    of_heads = mask[:, None] if mask is not None and mask.ndim == 3 else mask
    values = torch.eye(20, dtype=torch.float64).expand(2, heads, 20, 20)
    expected = torch.nn.functional.scaled_dot_product_attention(seen.q, k, values, of_heads, **options).mean(1)
    q = seen.q
    if not reshaped:
        q, k = (tensor.transpose(1, 2).flatten(2) for tensor in (q, k))
    found = attention_of(q, k, HEADS, (mask, None, reshaped), options)
    torch.testing.assert_close(found.probabilities(), expected)
    torch.testing.assert_close(
        attention_of(q, k, HEADS, (), {**options, "mask": mask, "skip_reshape": reshaped}).probabilities(), expected
    )


@pytest.mark.parametrize("budget", [2000, 2**30])
def test_a_block_is_renormalised(monkeypatch, budget):
    limit(monkeypatch, budget)
    seen = queries_and_keys()._replace(mask=torch.randn(2, 1, 20, 20).double())
    part = explicit(seen)[:, 3:9]
    found = seen.block(slice(3, 9), slice(4, 15)).probabilities()
    single = seen._replace(q=seen.q[:, :1], k=seen.k[:, :1])
    expected = explicit(single)[:, 3:9, 4:15]
    torch.testing.assert_close(
        single.block(slice(3, 9), slice(4, 15)).probabilities(), expected / expected.sum(-1, keepdim=True)
    )
    assert found.shape == (2, 6, 11)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 6).double())
    torch.testing.assert_close(seen.block(slice(3, 9), slice(None)).probabilities(), part)


def test_keys_that_a_mask_hides_altogether_give_numbers():
    seen = queries_and_keys()._replace(mask=torch.full((1, 1, 1, 20), -torch.inf))
    assert seen.probabilities().isfinite().all()


def in_cells(values: torch.Tensor, grid: tuple[int, int, int], mean: bool) -> torch.Tensor:
    """Means or sums over cells of 2 x 2 within frames, cell by cell. [frames * h * w, ...] -> [cells, ...]."""
    frames, height, width = grid
    pictures = values.unflatten(0, grid)
    cells = [
        pictures[frame, row : row + 2, column : column + 2].flatten(0, 1)
        for frame in range(frames) for row in range(0, height, 2) for column in range(0, width, 2)
    ]
    return torch.stack([cell.mean(0) if mean else cell.sum(0) for cell in cells])


@pytest.mark.parametrize("budget", [1500, 2**30])
@pytest.mark.parametrize("grid", [(1, 4, 6), (3, 5, 3), (2, 1, 7)])
@pytest.mark.parametrize("masked", [False, True])
def test_pooled_queries_and_keys(monkeypatch, budget, grid, masked):
    limit(monkeypatch, budget)
    frames, height, width = grid
    positions = frames * height * width
    seen = queries_and_keys(positions, positions)
    if masked:
        seen = seen._replace(mask=torch.randn(2, 1, 1, positions).double())
    q, k = seen.q, seen.k
    expected, text = [], []
    for image in range(2):
        maps, texts = [], []
        for head in range(HEADS):
            queries = in_cells(q[image, head], grid, mean=True)
            scores = queries @ k[image, head].mT / WIDTH**0.5
            scores = scores + (seen.mask[image, 0] if masked else 0)
            cells = len(queries) // frames
            whole = scores.new_zeros(len(queries), len(queries))
            for frame in range(frames):
                own, keys = (slice(frame * n // frames, (frame + 1) * n // frames) for n in (len(queries), positions))
                probability = scores[own, keys].softmax(-1)
                whole[own, own] = in_cells(probability.mT, (1, height, width), mean=False).mT
            assert whole.shape == (frames * cells, frames * cells)
            maps.append(whole)
            texts.append(scores[:, :5].softmax(-1))
        expected.append(sum(maps) / HEADS)
        text.append(sum(texts) / HEADS)
    product = torch.rand(2, len(expected[0]), 4, generator=torch.Generator().manual_seed(2)).double()
    found = SelfAttention(seen, grid, pool=True) @ product
    torch.testing.assert_close(found, torch.stack(expected) @ product)
    words = seen.block(slice(None), slice(0, 5)).pooled(grid, keys=False).probabilities()
    torch.testing.assert_close(words, torch.stack(text))


class LargestTensor(TorchDispatchMode):
    """Remembers the most bytes that any one operation put out."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_no_temporary_is_larger_than_the_budget(monkeypatch):
    budget = 2**20
    limit(monkeypatch, budget)
    seen, maps = queries_and_keys(positions=600, keys=600, batch=1, dtype=torch.float32), torch.rand(1, 600, 5)
    assert 4 * 600 * 600 > budget
    with LargestTensor() as largest:
        product = SelfAttention(seen) @ maps
    assert 0 < largest.bytes <= budget // 4
    torch.testing.assert_close(product, explicit(seen) @ maps, rtol=1e-4, atol=0)  # of scores up to 30, in float32


def test_a_run_under_a_small_budget_gives_the_same_latent(monkeypatch, sd15):
    model = with_scfg(sd15)
    expected = run(model)
    limit(monkeypatch, 500)
    assert relative(run(model), expected) < tiny.EXACT


def test_folding_undoes_repeated_tokens():
    seen = queries_and_keys(keys=7)
    repeated = Attention(seen.q, seen.k.repeat(1, 1, 3, 1))
    torch.testing.assert_close(fold_repeats(repeated.probabilities(), 7), explicit(seen))


def chosen_layers(model, downsample: int | None = None) -> tuple[int, list[Layer]]:
    return layers_at(model_family(model, "test"), model_layers(model, "test"), downsample, "test")


def blocks(layers: list[Layer]) -> list[tuple[str, int]]:
    return [layer.block for layer in layers]


SD_QUARTER = [("input", 7), ("input", 8), ("output", 3), ("output", 4), ("output", 5)]


def test_layers_of_sd15(sd15):
    scale, layers = chosen_layers(sd15)
    assert scale == 4
    assert blocks([layer for layer in layers if layer.downsample == 4]) == SD_QUARTER
    assert blocks([layer for layer in layers if layer.downsample == 8]) == [("middle", 0)]
    assert len(layers) == 6
    everything = model_layers(sd15, "test")
    assert [layer.downsample for layer in everything] == [1] * 2 + [2] * 2 + [4] * 2 + [8] + [4] * 3 + [2] * 3 + [1] * 3


def test_layers_of_sd2():
    scale, layers = chosen_layers(tiny.sd21())
    assert (scale, blocks(layers)) == (4, [*SD_QUARTER[:2], ("middle", 0), *SD_QUARTER[2:]])


def test_layers_of_sdxl(sdxl):
    scale, layers = chosen_layers(sdxl)
    quarter = [("input", 7), ("input", 8), ("middle", 0), ("output", 0), ("output", 1), ("output", 2)]
    assert (scale, blocks(layers)) == (4, quarter)
    assert {layer.depth for layer in layers} == {9}  # the last of ten
    scale, layers = chosen_layers(sdxl, 2)
    half = [("input", 4), ("input", 5), ("output", 3), ("output", 4), ("output", 5)]
    assert blocks([layer for layer in layers if layer.downsample == 2]) == half
    assert len(layers) == len(half) + len(quarter)


def test_layers_of_the_sdxl_refiner():
    scale, layers = chosen_layers(tiny.refiner())
    assert scale == 4
    assert {layer.downsample for layer in layers} == {4, 8}
    assert ("middle", 0) in blocks(layers)


def test_a_grid_that_the_model_lacks_is_refused(sdxl):
    with pytest.raises(ValueError, match=r"no attention at 1/8.*only at 1/2, 1/4"):
        with_scfg(sdxl, map_scale="1/8")


@pytest.mark.identity
@pytest.mark.parametrize("scale", ["auto", "1/2", "1/8"])
@pytest.mark.parametrize("backend", ["basic", "split", "sub_quad", "pytorch"])
def test_watching_changes_no_bit_of_the_output(monkeypatch, sd15, backend, scale):
    monkeypatch.setattr(host_attention, "optimized_attention", getattr(host_attention, f"attention_{backend}"))
    plain = run(sd15, steps=1)
    model, record = with_regions(sd15, strength=0.0, map_scale=scale)
    watched = run(model, steps=1)
    assert torch.equal(watched, plain)
    assert record.of(watched).steps
