"""Maps of a latent on the grid of a layer, [B, (T,) h, w] -> [B, P], and the places in them that count."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guidance.precision import widen
from .layouts import Grid


def some(values: Tensor, images: slice, places: Tensor | None) -> Tensor:
    """[B or 1, P] of some images and places."""
    values = values if len(values) == 1 else values[images]
    return values if places is None else values.index_select(1, places.to(values.device))


def alike(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Images [B, P] that are the same, neighbours together, each with the places that are not 0."""
    start = 0
    for image in range(1, len(rows) + 1):
        if image == len(rows) or not torch.equal(rows[image], rows[start]):
            yield slice(start, image), rows[start].nonzero()[:, 0]
            start = image


def on_grid(values: Tensor, grid: Grid) -> Tensor:
    """A map [B, (T,) h, w] on the grid of a layer, [B, P]: means of the cells where it shrinks, bilinear elsewhere."""
    values = widen(values if values.ndim == 4 else values[:, None])[:, None]  # [B, 1, T, h, w]
    if all(length <= size for length, size in zip(grid, values.shape[2:], strict=True)):
        values = F.adaptive_avg_pool3d(values, grid)
    else:
        values = F.interpolate(values, size=grid, mode="trilinear", align_corners=False)
    return values.flatten(1)


def on_device(values: Tensor, grid: Grid, device: torch.device) -> Tensor:
    return on_grid(values, grid).to(device)


def by_owner(owners: Tensor, grid: Grid, weights: tuple[float, ...], device: torch.device) -> Tensor:
    """The weight of each place's owner as a map, with borders that are as soft as the owners' cells are large."""
    weight = torch.stack([(owners == number) * each for number, each in enumerate(weights)]).sum(dim=0)
    return on_device(weight, grid, device)


def nearest(owners: Tensor, grid: Grid) -> Tensor:
    """Owners [B, (T,) h, w] on the grid of a layer, [B, P] on the CPU."""
    owners = owners if owners.ndim == 4 else owners[:, None]
    return F.interpolate(owners[:, None].float(), size=grid, mode="nearest-exact").flatten(1).long().cpu()
