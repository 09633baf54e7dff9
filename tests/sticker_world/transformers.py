"""Sticker World's transformers: the host's SD3 class (joint attention) and Wan class (self- and cross-attention).

They draw in the latents of the UNet's autoencoder and read the UNet's text model.
"""
from __future__ import annotations

from typing import NamedTuple

import comfy.ops
import comfy.supported_models
import torch
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from comfy.ldm.wan.model import WanModel

from .model import TEXT

WIDTH = TEXT["hidden_size"]
SHIFT = 3.0  # of the noise levels, in training and in sampling, as SD3's

JOINT = {
    "patch_size": 2, "in_channels": 4, "depth": 4, "num_blocks": 4, "qk_norm": "rms", "adm_in_channels": WIDTH,
    "pos_embed_max_size": 32, "pos_embed_scaling_factor": None,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 256}},
}  # fmt: skip
CROSS = {
    "model_type": "t2v", "patch_size": (1, 2, 2), "text_len": 77, "in_dim": 4, "out_dim": 4, "dim": 256,
    "ffn_dim": 1024, "freq_dim": 256, "text_dim": WIDTH, "num_heads": 4, "num_layers": 6,
}  # fmt: skip


class JointConfig(comfy.supported_models.SD3):
    unet_config = JOINT
    sampling_settings = {"shift": SHIFT}


class CrossConfig(comfy.supported_models.WAN21_T2V):
    unet_config = CROSS
    sampling_settings = {"shift": SHIFT}


class Transformer(NamedTuple):
    """One of the models. `video`: its latents are [B, C, T, H, W], with T = 1 for pictures."""

    config: type[comfy.supported_models.supported_models_base.BASE]
    network: type[torch.nn.Module]
    video: bool

    def new(self, seed: int) -> torch.nn.Module:
        """The network with initial weights: its last layer, and SD3's gates, are zero."""
        torch.manual_seed(seed)
        operations = comfy.ops.disable_weight_init
        network = self.network(**self.config.unet_config, dtype=torch.float32, operations=operations)
        for name, parameter in network.named_parameters():
            if name.endswith("modulation"):  # of Wan's blocks, beside the time's own
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
            elif "adaLN_modulation" in name or name.startswith(("final_layer.linear", "head.head")):
                torch.nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                torch.nn.init.xavier_uniform_(parameter.flatten(1))
            elif name.endswith("bias"):
                torch.nn.init.zeros_(parameter)
            else:
                torch.nn.init.ones_(parameter)
        return network


TRANSFORMERS = {
    "joint": Transformer(JointConfig, OpenAISignatureMMDITWrapper, video=False),
    "cross": Transformer(CrossConfig, WanModel, video=True),
}
