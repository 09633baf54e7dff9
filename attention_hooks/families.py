"""What is known of each model family: where its attention layers are and how its text tokens lie.

One row per family, in FAMILIES. Whatever a method must know of a family stands in its row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import comfy.model_base
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher

    from .observe import Call

CLIP_CHUNK = 77  # CLIP text encoders emit chunks of 77 tokens, each with a start token of its own
OPEN_CLIP_WIDTH = 1024  # of the text of SD 2.x; SD 1.x has 768, SDXL 2048

Grid = tuple[int, int, int]  # frames, height, width


class Layer(NamedTuple):
    """One transformer block."""

    block: tuple[str, int]  # the host's name of the block, such as ("output", 3); ("block", n) where it has none
    depth: int  # inside the block's spatial transformer; 0 in other families
    downsample: int  # how many times coarser than the latent its grid is
    frames: int = 1  # of the latent to each frame of its grid

    def grid(self, size: tuple[int, ...]) -> Grid:
        """The layer's positions on a latent of this size, [T,] H, W."""
        return (
            -(-size[-3] // self.frames) if len(size) > 2 else 1,
            -(-size[-2] // self.downsample), -(-size[-1] // self.downsample),
        )


class Place(NamedTuple):
    """Where text and image lie among the keys (and queries) of one joint attention call."""

    text: slice
    image: slice


class Family(NamedTuple):
    """A row of the table: the models of some classes of the host's model_base."""

    name: str  # as users know it
    classes: tuple[str, ...]
    kind: Literal["unet", "cross", "joint"]  # cross: each block calls self-attention, then cross-attention
    layers: Callable[[Any], list[Layer]]  # every block of a diffusion model that can be watched, as executed
    keyed: bool = True  # whether the options of a call name its block; otherwise calls of the right shape are counted
    place: Callable[[Call, int, int], Place | None] | None = None  # joint: (call, image positions, keys) -> where
    window: tuple[float, float] = (0.0, 1.0)  # the part of the layers that tells words apart, see layers_at
    read: int = 4  # layers
    chunk: int = 0  # tokens from one start token of the text to the next; 0: it has none worth reading
    until_eot: bool = False  # Attend-and-Excite: words compete until their chunk's end token, padding does not
    gradient: str | None = None  # why attention has no gradient by the latent; None where it has
    only: Callable[[BaseModel], bool] = lambda model: True  # for rows that share a class; the first that fits counts


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


def _open_clip(model: BaseModel) -> bool:
    return model.model_config.unet_config["context_dim"] >= OPEN_CLIP_WIDTH


_SD1 = Family(
    "Stable Diffusion 1.x", ("BaseModel", "SD15_instructpix2pix"), "unet", unet_layers, chunk=CLIP_CHUNK,
    only=lambda model: not _open_clip(model),
)
_SD2 = Family(
    "Stable Diffusion 2.x", ("BaseModel", "SD21UNCLIP"), "unet", unet_layers, chunk=CLIP_CHUNK, until_eot=True
)
_SDXL = Family(
    "SDXL", ("SDXL", "SDXLRefiner", "SDXL_instructpix2pix"), "unet", unet_layers, chunk=CLIP_CHUNK, until_eot=True
)

FAMILIES = (_SD1, _SD2, _SDXL)


def _family_of(base: BaseModel) -> Family | None:
    name = type(base).__name__
    if getattr(comfy.model_base, name, None) is not type(base):
        return None
    return next((family for family in FAMILIES if name in family.classes and family.only(base)), None)


def model_family(model: ModelPatcher, node: str) -> Family:
    """The row of a model that can be watched.

    Raises ValueError, naming the node and the model's class, for a model of a family that is not in the table.
    """
    base = model.model
    family = _family_of(base)
    if family is None or not _layers(family, base):
        supported = ", ".join(dict.fromkeys(row.name for row in FAMILIES))
        raise ValueError(
            f"{node}: the model is a {type(base).__name__} ({type(base.diffusion_model).__name__}), whose attention "
            f"this node does not know how to read. Supported: {supported}."
        )
    return family


def model_layers(model: ModelPatcher, node: str) -> list[Layer]:
    """The layers of `model` that can be watched. Raises ValueError as model_family does."""
    return _layers(model_family(model, node), model.model)


def _layers(family: Family, base: BaseModel) -> list[Layer]:
    if family.kind == "unet" and not isinstance(base.diffusion_model, UNetModel):
        return []
    return family.layers(base.diffusion_model)


def layers_at(family: Family, layers: list[Layer], downsample: int | None) -> tuple[int, list[Layer]]:
    """Choose among a model's layers: how much coarser than the latent the finest of them are, and the layers.

    UNets have layers of several grids: those `downsample` times coarser than the latent and twice as much. None picks
    the paper's 1/4 and 1/8; a model with neither gives the coarsest grid it has. All layers of a transformer have one
    grid, so that only None is allowed: `family.read` layers, evenly spread over the family's window.
    Raises ValueError when the model has no layer at it.
    """
    if family.kind != "unet":
        if downsample is not None:
            raise ValueError(
                f"all attention of {family.name} is at 1/{layers[0].downsample} of the latent's size, and its layers "
                "are chosen by depth. Choose auto."
            )
        return layers[0].downsample, _spread(family, layers)
    present = sorted({layer.downsample for layer in layers})
    if downsample is None:
        downsample = next((d for d in (4, 8) if d in present), present[-1])
    if downsample not in present:
        raise ValueError(
            f"this model has no attention at 1/{downsample} of the latent's size, only at "
            f"{', '.join(f'1/{d}' for d in present)}. Choose one of these, or auto."
        )
    return downsample, [layer for layer in layers if layer.downsample in (downsample, 2 * downsample)]


def _spread(family: Family, layers: list[Layer]) -> list[Layer]:
    """family.read layers at equal distances over the part of `layers` in the family's window."""
    first, last = (share * (len(layers) - 1) for share in family.window)
    steps = max(family.read - 1, 1)
    return [layers[n] for n in dict.fromkeys(round(first + (last - first) * i / steps) for i in range(family.read))]
