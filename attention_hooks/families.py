"""What is known of each model family. Whatever a method must know of one stands in its row of FAMILIES."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import comfy.model_base

from .layouts import Layer, Sequence, image, latents, square, stacks, text, tokens, unet_layers

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher

CLIP_CHUNK = 77  # CLIP text encoders emit chunks of 77 tokens, each with a start token of its own
NEAREST = 16  # positions along the side of the grid on which Attend-and-Excite looks for subjects
POOL = 2  # positions of a transformer, along either side, that are then seen as one
OPEN_CLIP_WIDTH = 1024  # of the text of SD 2.x; SD 1.x has 768

IN_PLACE = "its blocks change the picture's values in place, which a gradient does not survive"
KERNEL = "its attention goes through a kernel that has no gradient"
UNPROVEN = "its gradient has not been shown to be right"
TRAINING = "outside of training the host computes it with operations that have no gradient"

# The part of a model's layers that tells words apart, as far as it is known:
JOINT = (0.35, 0.60)  # Seg4Diff, NeurIPS 2025: block 9 of the 24 of SD3
LATE = (0.8, 1.0)  # ConceptAttention, ICML 2025: double blocks 15 to 18 of the 19 of Flux
CROSS = (1 / 3, 2 / 3)  # nothing is published


class Family(NamedTuple):
    """A row: the models of some classes of the host's model_base."""

    name: str  # as users know it
    classes: tuple[str, ...]
    kind: Literal["unet", "cross", "joint"]  # cross: each block calls self-attention, then cross-attention
    layers: Callable[[Any], list[Layer]]  # every block of a diffusion model that can be watched, as executed
    sequence: Sequence = Sequence(image)  # the positions of joint attention, or of self-attention
    keyed: bool = True  # whether the options of a call name its block; otherwise calls of the right size are counted
    window: tuple[float, float] = JOINT  # the part of the layers that is read, see layers_at
    read: int = 4  # how many of them
    chunk: int = 0  # text tokens from one start token to the next; 0: there is none worth reading
    clip_features: int = 0  # of the columns that CLIP made, where another encoder's follow, which are not read
    padded_in_front: bool = False  # whether the model makes the text longer, in front
    longest: str = ""  # the model's attribute that holds how many tokens of text it takes, where it leaves out the rest
    token_ids: str = ""  # in a conditioning, of which the model makes its columns instead of the conditioning's own
    until_eot: bool = False  # Attend-and-Excite: words compete until their chunk's end token, padding does not
    mixes_text: bool = False  # whether blocks of the text alone, in the model, come before (cross)
    gradient: str | None = None  # why attention has no gradient by the latent; None where it has
    unread: Callable[[Any], list[Layer]] = lambda model: []  # blocks after those, which attend to text and are not read
    only: Callable[[BaseModel], bool] = lambda model: True  # for rows that share a class: the first that fits


def _is_open_clip(model: BaseModel) -> bool:
    return model.model_config.unet_config["context_dim"] >= OPEN_CLIP_WIDTH


def _pads(model: BaseModel) -> bool:
    return model.diffusion_model.pad_tokens_multiple is not None


def _edges(model: Any) -> list[int]:
    return model.patch_size


def _edges_of_cosmos(model: Any) -> list[int]:
    return [model.patch_temporal, model.patch_spatial]


def _one(model: Any) -> list[int]:
    return [1]


_unet = partial(Family, kind="unet", layers=unet_layers, chunk=CLIP_CHUNK)
_flux = partial(
    Family, kind="joint", layers=stacks(square(), double="double_blocks"), window=LATE, gradient=IN_PLACE,
    unread=stacks(square(), single="single_blocks"), sequence=Sequence(text, image, latents("ref_latents")),
)
_hunyuan = partial(
    Family, kind="joint", layers=stacks(_edges, double="double_blocks", single="single_blocks"), gradient=IN_PLACE,
    sequence=Sequence(tokens("clip_fea"), tokens("txt_byt5"), text, latents("ref_latent"), image),
)
_cosmos = partial(  # ComfyUI 0.18 does not name the blocks of any
    Family, kind="cross", layers=stacks(_edges_of_cosmos, True, block="blocks"), keyed=False, window=CROSS, read=3
)
_wan = partial(Family, kind="cross", layers=stacks(_edges, double="blocks"), window=CROSS, gradient=TRAINING)
_transformer = stacks(square(), double="transformer_blocks")
_transformer_of_1 = stacks(_one, double="transformer_blocks")
_lumina = stacks(square(), double="layers")

FAMILIES: tuple[Family, ...] = (
    _unet("Stable Diffusion 1.x", ("BaseModel", "SD15_instructpix2pix"),
           only=lambda model: not _is_open_clip(model)),
    _unet("Stable Diffusion 2.x", ("BaseModel", "SD21UNCLIP"), until_eot=True),
    _unet("SDXL", ("SDXL", "SDXLRefiner", "SDXL_instructpix2pix"), until_eot=True),
    Family("Stable Diffusion 3", ("SD3",), "joint", stacks(square(), True, joint="joint_blocks"),
           Sequence(text, image), keyed=False, read=3, chunk=CLIP_CHUNK, clip_features=2048),
    Family("AuraFlow", ("AuraFlow",), "joint", stacks(square(), True, double="double_layers", single="single_layers"),
           Sequence(text, image, before=8), keyed=False),
    _flux("Flux", ("Flux",)),
    _flux("LongCat-Image", ("LongCatImage",)),
    _flux("Flux 2", ("Flux2",), window=(0.6, 1.0), padded_in_front=True),
    Family("Chroma", ("Chroma", "ChromaRadiance"), "joint",
           stacks(square(), double="double_blocks", single="single_blocks"), Sequence(text, image), gradient=IN_PLACE),
    Family("Qwen-Image", ("QwenImage",), "joint", _transformer, Sequence(text, image, latents("ref_latents")),
           gradient=TRAINING),
    Family("MageFlow", ("MageFlow",), "joint", _transformer_of_1, Sequence(text, image, latents("ref_latents")),
           gradient=TRAINING),
    Family("Krea 2", ("Krea2",), "joint", stacks(square("patch"), single="blocks"),
           Sequence(text, image, latents("ref_latents")), gradient=TRAINING),
    Family("Z-Image", ("Lumina2", "ZImagePixelSpace"), "joint", _lumina, Sequence(text, image, pad=32),
           gradient=TRAINING, only=_pads),
    Family("Lumina 2", ("Lumina2",), "joint", _lumina, Sequence(text, image), read=3, gradient=TRAINING),
    _hunyuan("HunyuanVideo", ("HunyuanVideo", "HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V")),
    _hunyuan("HunyuanVideo 1.5", ("HunyuanVideo15", "HunyuanVideo15_SR_Distilled")),
    _hunyuan("HunyuanImage 2.1", ("HunyuanImage21", "HunyuanImage21Refiner"),
             sequence=Sequence(text, tokens("txt_byt5"), image)),
    Family("OmniGen 2", ("Omnigen2",), "joint", stacks(square(), True, layer="layers"),
           Sequence(text, latents("ref_latents"), image), keyed=False, gradient=TRAINING),
    Family("Boogu", ("Boogu",), "joint",
           stacks(square(), True, double="double_stream_layers", single="single_stream_layers"),
           Sequence(text, latents("ref_latents"), image), keyed=False, gradient=TRAINING),
    Family("Ideogram 4", ("Ideogram4",), "joint", stacks(_one, True, layer="layers"),
           Sequence(text, image), keyed=False, gradient=TRAINING),
    Family("CogVideoX", ("CogVideoX",), "joint", stacks(square(frames="patch_size_t"), True, block="blocks"),
           Sequence(text, image), keyed=False),
    Family("PixelDiT", ("PixelDiTT2I", "PiD"), "joint", stacks(square(), True, patch="patch_blocks"),
           Sequence(text, image), keyed=False, gradient=IN_PLACE, longest="txt_max_length"),
    Family("HiDream", ("HiDream",), "joint",
           stacks(square(), True, double="double_stream_blocks", single="single_stream_blocks"),
           Sequence(image, text, *2 * [tokens("encoder_hidden_states_llama3")]), keyed=False, gradient=TRAINING),
    Family("Lens", ("Lens",), "joint", _transformer_of_1, Sequence(image, text), gradient=TRAINING),
    Family("JoyImage", ("JoyImage",), "joint", stacks(_edges, double="double_blocks"),
           Sequence(image, latents("ref_latents"), text), gradient=KERNEL),
    _wan("Wan", (
        "WAN21", "WAN22", "WAN21_Vace", "WAN21_Camera", "WAN21_FlowRVS", "WAN22_Animate", "WAN22_WanDancer",
    ), sequence=Sequence(latents("reference_latent"), image, latents("time_dim_concat"), latents("context_latents"))),
    _wan("Wan with sound", ("WAN21_HuMo", "WAN22_S2V"), sequence=Sequence(image, latents("reference_latent"))),
    _wan("Wan SCAIL", ("WAN21_SCAIL", "WAN21_SCAIL2"), sequence=Sequence(
        latents("reference_latent"), image, latents("time_dim_concat"), latents("pose_latents"))),
    _cosmos("Cosmos Predict 2", ("CosmosPredict2",), gradient=KERNEL),
    _cosmos("Anima", ("Anima",), token_ids="t5xxl_ids", gradient=KERNEL),
    _cosmos("Cosmos 1", ("CosmosVideo",), gradient=UNPROVEN),
    Family("LTX-Video", ("LTXV",), "cross", stacks(_one, True, block="transformer_blocks"), window=CROSS,
           keyed=False, gradient=IN_PLACE),
    Family("Kandinsky 5", ("Kandinsky5", "Kandinsky5Image"), "cross",
           stacks(_edges, double="visual_transformer_blocks"), window=CROSS, mixes_text=True,
           gradient=TRAINING),
)

_HIDDEN = "it calls attention where no node can see it"
_PACKED = "it samples sound and video packed into one latent, which is not read yet"
REFUSED = {
    "PixArt": _HIDDEN, "HunyuanDiT": _HIDDEN, "ErnieImage": _HIDDEN, "WAN21_CausalAR": _HIDDEN,
    "LTXAV": _PACKED, "MiniMaxH3": _PACKED,
    "HiDreamO1": "it reads the prompt within the picture's own stream, which is not read yet",
    "GenmoMochi": "the places of words in its attention have not been verified",
}


def _family_of(base: BaseModel) -> Family | None:
    name = type(base).__name__
    if getattr(comfy.model_base, name, None) is not type(base):
        return None
    return next((family for family in FAMILIES if name in family.classes and family.only(base)), None)


def model_family(model: ModelPatcher, node: str) -> Family:
    """The row of a model that can be watched.

    Raises ValueError, naming the node, the model's class and the reason, for a model of another family.
    """
    base = model.model
    family = _family_of(base)
    if family is not None and family.layers(base.diffusion_model):
        return family
    name = type(base).__name__
    described = f"{node}: the model is a {name} ({type(base.diffusion_model).__name__}), whose attention "
    if name in REFUSED:
        raise ValueError(f"{described}this node cannot read: {REFUSED[name]}. Use a model of another family.")
    supported = ", ".join(dict.fromkeys(row.name for row in FAMILIES))
    raise ValueError(f"{described}this node does not know how to read. Supported: {supported}.")


def model_layers(model: ModelPatcher, node: str) -> list[Layer]:
    """The layers of `model` that can be watched. Raises ValueError as model_family does."""
    return model_family(model, node).layers(model.model.diffusion_model)


def every_layer(model: ModelPatcher, node: str) -> list[Layer]:
    """All blocks whose attention reads text, also those that cannot tell words apart. Raises as model_family does."""
    family, transformer = model_family(model, node), model.model.diffusion_model
    last = [*family.layers(transformer), *family.unread(transformer)]  # of each spatial transformer of a UNet
    return [layer._replace(depth=depth) for layer in last for depth in range(layer.depth + 1)]


def layers_at(family: Family, layers: list[Layer], downsample: int | None, node: str) -> tuple[int, list[Layer]]:
    """Choose among a model's layers: how much coarser than the latent the finest of them are, and the layers.

    UNets have layers of several grids: those `downsample` times coarser than the latent and twice as much. None picks
    the paper's 1/4 and 1/8; a model with neither gives the coarsest grid it has. All layers of a transformer have one
    grid, so that only None is allowed: up to `family.read` layers, evenly spread over the family's window.
    Raises ValueError, naming the node, when the model has no layer at it.
    """
    if family.kind != "unet":
        if downsample is not None:
            raise ValueError(
                f"{node}: all attention of {family.name} is at 1/{layers[0].downsample} of the latent's size, and its "
                "layers are chosen by depth. Choose auto."
            )
        return layers[0].downsample, _spread(family, layers)
    present = sorted({layer.downsample for layer in layers})
    if downsample is None:
        downsample = next((d for d in (4, 8) if d in present), present[-1])
    if downsample not in present:
        raise ValueError(
            f"{node}: this model has no attention at 1/{downsample} of the latent's size, only at "
            f"{', '.join(f'1/{d}' for d in present)}. Choose one of these, or auto."
        )
    return downsample, [layer for layer in layers if layer.downsample in (downsample, 2 * downsample)]


def layers_near(
    family: Family, layers: list[Layer], downsample: int | None, latent: tuple[int, int], node: str
) -> tuple[int, list[Layer]]:
    """The layers of one grid, as Attend-and-Excite averages them, and how much coarser than the latent [H, W] it is.

    downsample None: the grid whose number of positions is nearest to 16x16. The middle block alone, as it is for SD 1.x
    at the coarsest grid, is not among the paper's layers and is chosen only where there is nothing else. All layers of
    a transformer have one grid, whose positions are taken together by 2 x 2: 16x16 for a latent of 64x64, as well.
    """
    if family.kind != "unet":
        downsample, layers = layers_at(family, layers, downsample, node)
        return POOL * downsample, layers
    outside = [layer for layer in layers if layer.block[0] != "middle"]
    present = sorted({layer.downsample for layer in outside or layers})
    if downsample is None:
        positions = {d: math.prod(-(-size // d) for size in latent) for d in present}
        downsample = min(present, key=lambda d: abs(math.log(positions[d] / NEAREST**2)))
    return downsample, [layer for layer in layers if layer.downsample == downsample]


def _spread(family: Family, layers: list[Layer]) -> list[Layer]:
    """family.read layers at equal distances over the part of `layers` in the family's window."""
    first, last = (share * (len(layers) - 1) for share in family.window)
    steps = max(family.read - 1, 1)
    return [layers[n] for n in dict.fromkeys(round(first + (last - first) * i / steps) for i in range(family.read))]
