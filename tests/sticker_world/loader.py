"""Load Sticker World as the host's own MODEL, CLIP and VAE."""
from __future__ import annotations

import json
from pathlib import Path

import comfy.latent_formats
import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import torch
from comfy.supported_models_base import ClipTarget
from comfy.taesd.taesd import TAESD
from safetensors import SafetensorError, safe_open

from .model import DOWNSCALE, TEXT, UNET, Autoencoder
from .transformers import TRANSFORMERS

WEIGHTS = Path(__file__).parent / "weights"
MODELS = ("unet", *TRANSFORMERS)


class StickerWorldConfig(comfy.supported_models.SD15):
    unet_config = UNET
    unet_extra_config = {}


class StickerWorldLatent(comfy.latent_formats.LatentFormat):
    """Latents [4, H / 4, W / 4]; `rgb` is the least-squares map from scaled latents to colours in -1..1."""

    spacial_downscale_ratio = DOWNSCALE

    def __init__(self, scale_factor: float, rgb: list[list[float]], rgb_bias: list[float], video: bool) -> None:
        self.scale_factor = scale_factor
        self.latent_dimensions = 3 if video else 2
        self.latent_rgb_factors = rgb
        self.latent_rgb_factors_bias = rgb_bias


def read_weights(name: str, folder: Path = WEIGHTS) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of `folder/name.safetensors`.

    Raises FileNotFoundError or ValueError, which name the file and the command that makes it.
    """
    path = folder / f"{name}.safetensors"
    option = f" --model {name}" if name in TRANSFORMERS else ""
    remedy = f"`python dev.py train{option}` makes it anew; `git checkout` brings back the one of the repository."
    if not path.is_file():
        raise FileNotFoundError(f"Sticker World: the weights {path} are missing. {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"Sticker World: the weights {path} are damaged ({error}). {remedy}") from error


def make_model(
    name: str, weights: dict[str, torch.Tensor], metadata: dict[str, str]
) -> comfy.model_patcher.ModelPatcher:
    """One of MODELS from its weights."""
    transformer = TRANSFORMERS.get(name)
    kind = StickerWorldConfig if transformer is None else transformer.config
    config = kind(dict(kind.unet_config))
    video = transformer is not None and transformer.video
    config.latent_format = StickerWorldLatent(**json.loads(metadata["latent_format"]), video=video)
    device = management.get_torch_device()
    supported = config.supported_inference_dtypes
    dtype = management.unet_dtype(supported_dtypes=supported, weight_dtype=torch.float16)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, supported))
    offload_device = management.unet_offload_device()
    model = config.get_model(weights, "", device=offload_device)
    patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=offload_device)
    model.load_model_weights(dict(weights), "", assign=patcher.is_dynamic())
    return patcher


def make_clip(weights: dict[str, torch.Tensor]) -> comfy.sd.CLIP:
    target = ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    parameters = sum(tensor.numel() for tensor in weights.values())
    return comfy.sd.CLIP(
        target, parameters=parameters, state_dict=[dict(weights)], model_options={"clip_l_model_config": TEXT}
    )


def make_vae(weights: dict[str, torch.Tensor]) -> comfy.sd.VAE:
    vae = comfy.sd.VAE(sd=TAESD().state_dict())
    model = Autoencoder().eval().requires_grad_(False)
    model.load_state_dict(weights)
    vae.first_stage_model = model.to(vae.vae_dtype)
    vae.patcher = comfy.model_patcher.CoreModelPatcher(
        model, load_device=vae.device, offload_device=management.vae_offload_device()
    )
    vae.downscale_ratio = vae.upscale_ratio = DOWNSCALE
    return vae


def load_sticker_world(
    folder: Path = WEIGHTS, model: str = "unet"
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """(MODEL, CLIP, VAE) of Sticker World from the weights in `folder`; model: one of MODELS."""
    network, text, autoencoder = (read_weights(name, folder) for name in (model, "text_model", "autoencoder"))
    return make_model(model, *network), make_clip(text[0]), make_vae(autoencoder[0])
