"""What is known of each model family: where its attention layers are and how its text tokens lie.

One row per family. A family is added by writing a function that lists its layers and, where attention is not called
as in the UNet, an observer of its own in observe.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import comfy.model_base
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CLIP_CHUNK = 77  # CLIP text encoders emit chunks of 77 tokens, each with a start token of its own


class Layer(NamedTuple):
    """One transformer block: self-attention followed by cross-attention."""

    block: tuple[str, int]  # the host's name of the block, such as ("output", 3)
    depth: int  # inside the block's spatial transformer
    downsample: int  # how many times coarser than the latent its grid is


class Family(NamedTuple):
    name: str
    layers: Callable[[UNetModel], list[Layer]]


def unet_layers(unet: UNetModel) -> list[Layer]:
    """The last transformer block of every spatial transformer, in the order of execution.

    SD 1.x and 2.x have one block in each. SDXL stacks up to ten; the last one sees what the others made of the
    prompt, and watching one per spatial transformer keeps the cost of SD 1.x.
    """
    layers, downsample = [], 1

    def visit(block: tuple[str, int], modules) -> None:
        nonlocal downsample
        for module in modules:
            if type(module) is SpatialTransformer:
                layers.append(Layer(block, len(module.transformer_blocks) - 1, downsample))
            elif isinstance(module, Downsample):
                downsample *= 2
            elif isinstance(module, Upsample):
                downsample //= 2

    for number, modules in enumerate(unet.input_blocks):
        visit(("input", number), modules)
    visit(("middle", 0), unet.middle_block or [])
    for number, modules in enumerate(unet.output_blocks):
        visit(("output", number), modules)
    return layers


_SD = Family("Stable Diffusion 1.x / 2.x", unet_layers)
_SDXL = Family("SDXL", unet_layers)

FAMILIES: dict[type, Family] = {
    comfy.model_base.BaseModel: _SD,
    comfy.model_base.SD21UNCLIP: _SD,
    comfy.model_base.SD15_instructpix2pix: _SD,
    comfy.model_base.SDXL: _SDXL,
    comfy.model_base.SDXLRefiner: _SDXL,
    comfy.model_base.SDXL_instructpix2pix: _SDXL,
}


def model_layers(model: ModelPatcher, node: str) -> list[Layer]:
    """The layers of `model` that can be watched.

    Raises ValueError, naming the node and the model's class, for a model of a family that is not in the table.
    """
    base = model.model
    family = FAMILIES.get(type(base))
    layers = family.layers(base.diffusion_model) if family and isinstance(base.diffusion_model, UNetModel) else []
    if not layers:
        supported = ", ".join(dict.fromkeys(row.name for row in FAMILIES.values()))
        raise ValueError(
            f"{node}: the model is a {type(base).__name__} ({type(base.diffusion_model).__name__}), whose attention "
            f"this node does not know how to read. Supported: {supported}."
        )
    return layers


def layers_at(layers: list[Layer], downsample: int | None) -> tuple[int, list[Layer]]:
    """Choose layers by how much coarser than the latent their grids are: `downsample` times and twice as much.

    downsample None picks the paper's 1/4 and 1/8; a model with neither gives the coarsest grid it has.
    Returns the finest grid's downsample and the layers. Raises ValueError when the model has no layer at it.
    """
    present = sorted({layer.downsample for layer in layers})
    if downsample is None:
        downsample = next((d for d in (4, 8) if d in present), present[-1])
    if downsample not in present:
        raise ValueError(
            f"this model has no attention at 1/{downsample} of the latent's size, only at "
            f"{', '.join(f'1/{d}' for d in present)}. Choose one of these, or auto."
        )
    return downsample, [layer for layer in layers if layer.downsample in (downsample, 2 * downsample)]
