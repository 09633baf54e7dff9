"""The layers of a model, and where text and picture lie among the positions that they attend over."""

from __future__ import annotations

import collections.abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from torch import Tensor

if TYPE_CHECKING:
    from .observe import Call

Grid = tuple[int, int, int]  # frames, height, width


class Layer(NamedTuple):
    """One transformer block."""

    block: tuple[str, int]  # the host's name of the block, such as ("output", 3); ("block", n) where it has none
    depth: int  # inside the block's spatial transformer; 0 in transformers
    downsample: int  # how many times coarser than the latent its grid is
    frames: int = 1  # of the latent to each frame of its grid

    def grid(self, size: tuple[int, ...]) -> Grid:
        """The layer's positions on a latent of this size, [T,] H, W."""
        return (
            -(-size[-3] // self.frames) if len(size) > 2 else 1,
            -(-size[-2] // self.downsample), -(-size[-1] // self.downsample),
        )

    def positions(self, size: tuple[int, ...]) -> int:
        frames, height, width = self.grid(size)
        return frames * height * width


def unet_layers(unet: Any) -> list[Layer]:
    """The last transformer block of every spatial transformer, in the order of execution.

    SD 1.x and 2.x have one block in each. SDXL stacks up to ten; the last one sees what the others made of the
    prompt, and watching one per spatial transformer keeps the cost of SD 1.x.
    """
    layers: list[Layer] = []
    downsample = 1

    def visit(block: tuple[str, int], modules) -> None:
        nonlocal downsample
        for module in modules:
            if type(module) is SpatialTransformer:
                layers.append(Layer(block, len(module.transformer_blocks) - 1, downsample))
            elif isinstance(module, Downsample):
                downsample *= 2
            elif isinstance(module, Upsample):
                downsample //= 2

    if not isinstance(unet, UNetModel):
        return layers
    for number, modules in enumerate(unet.input_blocks):
        visit(("input", number), modules)
    visit(("middle", 0), unet.middle_block or [])
    for number, modules in enumerate(unet.output_blocks):
        visit(("output", number), modules)
    return layers


Patch = Callable[[Any], collections.abc.Sequence[int]]  # of a diffusion model: [frames,] [height,] width; square


def square(name: str = "patch_size", frames: str = "") -> Patch:
    """The patch of a model whose attribute `name` is its edge, and `frames` its length in time, if it has one."""
    return lambda model: (getattr(model, frames, None) or 1, getattr(model, name))


def stacks(patch: Patch, counted: bool = False, /, **names: str) -> Callable[[Any], list[Layer]]:
    """Lists the blocks of a transformer. names: of its stacks of blocks, by the name that the host gives each block.

    counted: the host names none; blocks have their place in all the stacks, in the order of execution.
    """

    def layers(model: Any) -> list[Layer]:
        sizes = patch(model)
        frames, edge = sizes[0] if len(sizes) > 1 else 1, sizes[-1]
        blocks = [(kind, n) for kind, name in names.items() for n in range(len(getattr(model, name)))]
        if counted:
            blocks = [("block", n) for n in range(len(blocks))]
        return [Layer(block, 0, edge, frames) for block in blocks]

    return layers


class Place(NamedTuple):
    """Where the prompt and the picture lie among the positions of one attention call."""

    text: slice
    image: slice


Part = Callable[["Call", Layer], int]  # how many positions it takes


def text(call: Call, layer: Layer) -> int:
    return call.tokens


def image(call: Call, layer: Layer) -> int:
    return layer.positions(call.size)


def tokens(name: str) -> Part:
    """Of a tensor [..., tokens, width] that the model gets beside the latent."""
    return lambda call, layer: call.extra[name].shape[-2] if call.extra.get(name) is not None else 0


def latents(name: str) -> Part:
    """Of latents [B, C, ...] that the model gets beside its own: one tensor, or a list."""

    def count(call: Call, layer: Layer) -> int:
        given = call.extra.get(name)
        given = [] if given is None else [given] if isinstance(given, Tensor) else given
        return sum(layer.positions(tuple(latent.shape[2:])) for latent in given)

    return count


class Sequence:
    """The parts of an attention call's positions, in order, after `before` others.

    Text and picture are padded to a multiple of `pad`. What else is given to a model may not be for it.
    """

    def __init__(self, *parts: Part, before: int = 0, pad: int = 1):
        self._parts = parts
        self._before = before
        self.pad = pad

    def place(self, call: Call, layer: Layer, length: int) -> Place | None:
        """Where text and picture lie among `length` positions; None where the parts make another number."""
        return self._fit(call, layer, length, self._parts) or self._fit(call, layer, length, (text, image))

    def _fit(self, call: Call, layer: Layer, length: int, taken: tuple[Part, ...]) -> Place | None:
        found = {text: slice(0, 0), image: slice(0, 0)}
        start = self._before
        for part in self._parts:
            size = part(call, layer) if part in taken else 0
            if part in found:
                found[part] = slice(start, start + size)
                size = -(-size // self.pad) * self.pad
            start += size
        first = found[text].start
        own = slice(first + call.ahead, min(first + call.ahead + call.text, found[text].stop))
        return Place(own, found[image]) if start == length else None
