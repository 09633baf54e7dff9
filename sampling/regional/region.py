"""A region as a user describes it, and its place in a latent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...guidance.regions import Box, box_cover, resample
from ...words.phrases import word_list
from ...words.prompt import CONDITIONING_KEY

NODE = "Regional Prompts"
LONGEST_NAME = 40  # characters


class Boxes(NamedTuple):
    """Boxes that together are one place.

    edges: (left, top, right, bottom) of each, in pixels of a canvas that is not known yet, or in shares of the picture.
    """

    edges: tuple[tuple[float, float, float, float], ...]
    in_pixels: bool

    def on(self, width: int, height: int) -> tuple[Box, ...]:
        """As shares of a canvas of this size, in pixels. ValueError for a box that lies outside of it."""
        scale = (width, height) if self.in_pixels else (1, 1)
        boxes = []
        for left, top, right, bottom in self.edges:
            box = Box(left / scale[0], top / scale[1], right / scale[0], bottom / scale[1])
            if box.left >= 1 or box.top >= 1 or box.right <= 0 or box.bottom <= 0:
                raise ValueError(
                    f"its box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) lies outside of the picture of "
                    f"{width} x {height}. Set width and height to those of the canvas on which it was drawn"
                )
            boxes.append(box)
        return tuple(boxes)


@dataclass(frozen=True)
class Region:
    """One prompt for a part of the picture."""

    conditioning: list
    place: Tensor | Boxes | None = None  # a mask [N, H, W] of any size
    words: tuple[str, ...] = ()  # of the base prompt, where the model sees them
    strength: float = 1.0  # what is left is the base prompt's share
    negative: list | None = None
    negative_strength: float = 1.0

    @property
    def name(self) -> str:
        """The words of its prompt, as far as they are known."""
        words = next((extra[CONDITIONING_KEY] for _, extra in self.conditioning if CONDITIONING_KEY in extra), None)
        text = "" if words is None else " ".join(word_list(words))
        return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3].rstrip()}..."


def cover(place: Tensor | tuple[Box, ...] | None, batch: int, size: Sequence[int]) -> Tensor:
    """A place on a latent [B, C, *size], from 0 to 1: [1 or B, *size], on the CPU. None is everywhere.

    A batch of masks is spread over the frames of a video, or given to the images of a batch in turn.
    """
    if place is None:
        return torch.ones((1, *size))
    if not isinstance(place, Tensor):
        return torch.stack([box_cover(box, size) for box in place]).amax(dim=0)
    masks = place.float().cpu().reshape(-1, *place.shape[-2:]).clamp(0, 1)
    if len(size) > 2:
        return resample(masks[None], size)
    masks = resample(masks, size)
    return masks if len(masks) == 1 else masks.repeat(-(-batch // len(masks)), 1, 1)[:batch]
