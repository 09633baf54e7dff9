"""The losses that move the latent: what a user asks for, and the same in one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from comfy.utils import repeat_to_batch_size
from torch import Tensor

from ...guidance.regions import Box, box_cover, resample
from .plan import NODE

KINDS = ("missing subject", "overlap", "inside", "size")


class AttentionLoss(NamedTuple):
    """One loss on the attention to some words."""

    kind: str  # one of KINDS
    words: tuple[str, ...]
    weight: float = 1.0
    size: float = 0.1  # the share of the picture that each word should take
    mask: Tensor | None = None  # [N, H, W], of any size: where the words should be
    boxes: tuple[tuple[float, float, float, float], ...] = ()  # or in these: left, top, right, bottom of each
    in_pixels: bool = True  # the boxes, or in shares of the picture

    @property
    def name(self) -> str:
        """For a message."""
        return f"{self.kind} ({', '.join(self.words)})"


class Term(NamedTuple):
    """A loss in one run, on latents of one shape."""

    kind: str
    words: tuple[int, ...]  # among those of all losses
    weight: float = 1.0
    size: float = 0.1
    region: Tensor | None = None  # [B or 1, *size], how much of each position of the latent belongs to it

    def cells(self, grid: Sequence[int]) -> Tensor:
        """The positions of attention maps that lie in the region, [B or 1, P] bool: those that do for the most part.

        A region too small for that has those that it touches.
        """
        share = resample(self.region, grid).flatten(1)
        most = share >= 0.5
        return torch.where(most.any(1, keepdim=True), most, share > 0)


def words_of(losses: Sequence[AttentionLoss]) -> tuple[str, ...]:
    """All words of these losses, each once."""
    return tuple(dict.fromkeys(word for loss in losses for word in loss.words))


def terms_for(losses: Sequence[AttentionLoss], x: Tensor, pixels: int) -> list[Term]:
    """The losses on a latent x [B, C, *size], of which a position has `pixels` pixels along each side."""
    number = {word: n for n, word in enumerate(words_of(losses))}
    return [
        Term(loss.kind, tuple(number[word] for word in loss.words), loss.weight, loss.size, _region(loss, x, pixels))
        for loss in losses
    ]


def _region(loss: AttentionLoss, x: Tensor, pixels: int) -> Tensor | None:
    """[B or 1, *size]. A batch of masks is spread over the frames of a video, or given to the images in turn."""
    size = x.shape[2:]
    if loss.boxes:
        height, width = (length * pixels for length in size[-2:])
        boxes = [_box(edges, width, height, loss.in_pixels) for edges in loss.boxes]
        return torch.stack([box_cover(box, size) for box in boxes]).amax(0).to(x.device)
    if loss.mask is None:
        return None
    masks = loss.mask.float().cpu().reshape(-1, *loss.mask.shape[-2:]).clamp(0, 1)
    if len(size) > 2:
        return resample(masks[None], size).to(x.device)
    return repeat_to_batch_size(resample(masks, size), len(x)).to(x.device)


def _box(edges: tuple[float, float, float, float], width: int, height: int, in_pixels: bool) -> Box:
    """Edges as shares of a picture of this size, in which they have to lie."""
    left, top, right, bottom = edges
    across, down = (width, height) if in_pixels else (1, 1)
    if left < 0 or top < 0 or right > across or bottom > down:
        raise ValueError(
            f"{NODE}: a box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) does not lie in the picture of "
            f"{across} x {down}. Draw it for this size."
        )
    return Box(left / across, top / down, right / across, bottom / down)
