"""How strongly a prediction is guided, whatever guided it.

The effective scale is the projection of the guided prediction on the direction of classifier-free guidance.
"Guidance Matters", https://arxiv.org/abs/2602.22570, compares guidance methods with plain CFG at the same effective
scale: scores of pictures rise with it, so a method that only raises it seems to win.
"""

from __future__ import annotations

from torch import Tensor

from .precision import widen


def effective_scale(guided: Tensor, cond: Tensor, uncond: Tensor, regions: Tensor) -> Tensor:
    """<guided - uncond, d> / <d, d> over each region, where d = cond - uncond. [B, regions].

    guided, cond, uncond: [B, C, *size], in any space that is linear in the model's output. regions: weights in 0..1,
    [B, regions, *size]. For plain CFG it is the CFG scale. NaN where cond and uncond are alike, or a region is empty.
    """
    direction = widen(cond) - widen(uncond)
    along = (widen(guided) - widen(uncond)) * direction
    return _over(along, regions) / _over(direction.square(), regions)


def norm_ratio(guided: Tensor, cond: Tensor, regions: Tensor) -> Tensor:
    """|guided| / |cond| over each region, [B, regions]; NaN in an empty one. Shapes as in effective_scale."""
    return (_over(widen(guided).square(), regions) / _over(widen(cond).square(), regions)).sqrt()


def clipped_share(picture: Tensor, regions: Tensor) -> Tensor:
    """The share of a picture's colour values in 0..1 that lie at an end, in each region. [regions].

    picture: [H, W, 3]; regions: [regions, H, W]. NaN in an empty region.
    """
    clipped = ((picture <= 0) | (picture >= 1)).float().mean(dim=-1)  # [H, W]
    return (clipped * regions).flatten(1).sum(dim=1) / regions.flatten(1).sum(dim=1)


def _over(values: Tensor, regions: Tensor) -> Tensor:
    """[B, C, *size], [B, regions, *size] -> the weighted sum over each region, [B, regions]."""
    return (values.sum(dim=1, keepdim=True) * regions).flatten(2).sum(dim=-1)
