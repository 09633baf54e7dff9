"""Tiny models of the host's own classes, filled from a seeded generator; each builds in about a second.

They compute in float64 unless a test asks for less. Two ways to compute the same thing then differ by about 1e-15, so
that rounding moves no position to another region and no value over a threshold, and bounds hold on every CPU. `GPU`
tests run on the device and in the precision that `dev.py test gpu` names instead.
"""

from __future__ import annotations

import os
import re

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

CPU = torch.device("cpu")
WIDTH = 64  # of the text conditioning
DEVICE = comfy.model_management.get_torch_device()  # the one that paths.use_host chose
DTYPE = getattr(torch, os.environ.get("TEST_PRECISION", "float64"))
EXACT = 1e-6  # of the largest value. In float64 only the host's rounding of a result to float32 is left, up to 6e-8

COMMON = dict(
    in_channels=4, out_channels=4, model_channels=32, context_dim=WIDTH, use_spatial_transformer=True,
    use_checkpoint=False, legacy=False, use_temporal_attention=False,
)
SD15 = dict(
    COMMON, image_size=32, num_res_blocks=[2, 2, 2, 2], channel_mult=[1, 2, 4, 4], transformer_depth=[1] * 6 + [0, 0],
    transformer_depth_middle=1, transformer_depth_output=[1] * 9 + [0] * 3, num_heads=4, num_head_channels=-1,
    use_linear_in_transformer=False, adm_in_channels=None,
)
SDXL = dict(
    COMMON, image_size=32, num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4], transformer_depth=[0, 0, 2, 2, 10, 10],
    transformer_depth_middle=10, transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], num_heads=-1,
    num_head_channels=16, use_linear_in_transformer=True, adm_in_channels=2816, num_classes="sequential",
)
SD21 = dict(SD15, use_linear_in_transformer=True)
REFINER = dict(
    COMMON, image_size=32, num_res_blocks=[2, 2, 2, 2], channel_mult=[1, 2, 4, 4],
    transformer_depth=[0, 0, 4, 4, 4, 4, 0, 0], transformer_depth_middle=4,
    transformer_depth_output=[0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0], num_heads=-1, num_head_channels=16,
    use_linear_in_transformer=True, adm_in_channels=2560, num_classes="sequential",
)


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fill all parameters so that activations keep their size and attention is far from uniform.

    The later blocks of a stack attend less sharply: ten sharp ones in a row multiply a small difference by 10^7.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                spread = 2.0 if re.search(r"(?<!transformer_blocks\.[1-9]\.attn[12])\.to_[qk]\.", name) else 1.0
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * spread / parameter[0].numel() ** 0.5)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return module


def build(config: dict, cls=comfy.supported_models.SD15, dtype=DTYPE, seed: int = 0):
    """A ModelPatcher around a tiny UNet."""
    described = cls(dict(config, dtype=dtype))
    described.set_inference_dtype(dtype, torch.float32 if dtype.itemsize < 4 and DEVICE.type == "cpu" else None)
    model = described.get_model({}, "", CPU)
    randomise(model.diffusion_model, seed)
    patcher = comfy.model_patcher.ModelPatcher(model.eval(), DEVICE, CPU)
    return in_float64(patcher) if dtype == torch.float64 else patcher


def in_float64(model):
    """Let a model sample in float64, though the host gives it float32 noise and rounds each prediction to float32."""

    def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs):
        sigmas, noise, latent_image = sigmas.double(), noise.double(), latent_image.double()
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "in_float64", sampler_sample)
    return model


def loaded_in_part(monkeypatch, model):
    """`model`, a third of whose weights is loaded; the others are cast layer by layer, as with too little memory."""
    load = model.load

    def load_a_third(device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        load(device_to, model.model_size() // 3, force_patch_weights, full_load=False)

    monkeypatch.setattr(model, "load", load_a_third)
    return model


def sd15(**kwargs):
    return build(SD15, **kwargs)


def sdxl(**kwargs):
    return build(SDXL, comfy.supported_models.SDXL, **kwargs)


class SD21V(comfy.supported_models.SD20):
    """SD 2.1 at 768, whose v-prediction the host recognises by a statistic of the trained weights."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": 16, "attn_precision": torch.float32}

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION


def sd21(**kwargs):
    model = build(SD21, SD21V, **kwargs)
    model.model.model_config.unet_config["context_dim"] = 1024  # by which SD 2.x is told from SD 1.x
    return model


def refiner(**kwargs):
    return build(REFINER, comfy.supported_models.SDXLRefiner, **kwargs)


def prompt(seed: int, tokens: int = 77, **values) -> list:
    """A conditioning of random text embeddings."""
    generator = torch.Generator().manual_seed(1000 + seed)
    embedding = torch.randn((1, tokens, WIDTH), generator=generator)
    pooled = torch.randn((1, 1280), generator=generator)
    return [[embedding, {"pooled_output": pooled, **values}]]


def latent(batch: int = 1, height: int = 32, width: int = 32) -> Tensor:
    return torch.zeros((batch, 4, height, width))


def sample(
    model, positive, negative, cfg: float = 7.5, steps: int = 3, sampler: str = "euler", seed: int = 7,
    samples: Tensor | None = None, noise: Tensor | None = None, **kwargs,
) -> Tensor:
    """Sample as KSampler does."""
    samples = latent() if samples is None else samples
    noise = comfy.sample.prepare_noise(samples, seed) if noise is None else noise
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, "normal", positive, negative, samples, disable_pbar=True, seed=seed,
            **kwargs,
        )
