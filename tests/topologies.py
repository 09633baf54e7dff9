"""Models with random weights in the host's own classes, at the topologies of real ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import comfy.model_patcher
import comfy.supported_models
import torch
from measuring import CPU


class Topology(NamedTuple):
    name: str
    config: str  # in comfy.supported_models
    unet: dict[str, Any]
    blocks: int  # that the real model has for each one here
    latent: tuple[int, ...]  # without the batch
    text: tuple[int, int]  # tokens, width


JOINT = Topology(
    "SD 3.5 medium, 1024x1024 pixels: 4,096 positions", "SD3",
    dict(
        input_size=None, patch_size=2, in_channels=16, depth=24, num_blocks=1, pos_embed_max_size=384,
        num_patches=384**2, adm_in_channels=2048, qk_norm="rms", pos_embed_scaling_factor=None,
        x_block_self_attn_layers=[0],
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
    ),
    24, (16, 128, 128), (154, 4096),
)
VIDEO = Topology(
    "Wan 1.3B, 832x480 pixels, 81 frames: 32,760 positions", "WAN21_T2V",
    dict(
        image_model="wan2.1", model_type="t2v", patch_size=(1, 2, 2), in_dim=16, out_dim=16, dim=1536, ffn_dim=8960,
        freq_dim=256, text_dim=4096, num_heads=12, num_layers=1,
    ),
    30, (16, 21, 60, 104), (512, 4096),
)
UNET = dict(
    image_size=32, in_channels=4, out_channels=4, use_spatial_transformer=True, use_checkpoint=False, legacy=False,
    use_temporal_attention=False,
)  # fmt: skip


def sd15(width: int) -> Topology:
    unet = dict(
        UNET, model_channels=width, num_res_blocks=[2] * 4, channel_mult=[1, 2, 4, 4],
        transformer_depth=[1] * 6 + [0, 0], transformer_depth_middle=1, transformer_depth_output=[1] * 9 + [0] * 3,
        num_heads=8, num_head_channels=-1, use_linear_in_transformer=False, adm_in_channels=None, context_dim=768,
    )  # fmt: skip
    return Topology(f"SD 1.5, {width} channels, 64x64", "SD15", unet, 1, (4, 64, 64), (77, 768))


def sdxl(width: int) -> Topology:
    unet = dict(
        UNET, model_channels=width, num_res_blocks=[2] * 3, channel_mult=[1, 2, 4],
        transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10,
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], num_heads=-1, num_head_channels=64,
        use_linear_in_transformer=True, adm_in_channels=2816, num_classes="sequential", context_dim=2048,
    )  # fmt: skip
    return Topology(f"SDXL, {width} channels, 64x64", "SDXL", unet, 1, (4, 64, 64), (77, 2048))


def build(topology: Topology, dtype: torch.dtype = torch.float32, device: torch.device = CPU):
    """Its patcher."""
    config = getattr(comfy.supported_models, topology.config)(dict(topology.unet, dtype=dtype))
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(0.1)
    return comfy.model_patcher.ModelPatcher(model.eval(), device, CPU)
