"""The parts of Sticker World's diffusion model, all of the host's own classes, and how they are loaded.

Same plan as Stable Diffusion 1.5, smaller: a CLIP text model over 77 tokens, an autoencoder, a UNet that predicts eps.
"""
from __future__ import annotations

import comfy.latent_formats
import comfy.ops
import comfy.sd1_clip
import comfy.supported_models
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.taesd.taesd import TAESD, Block, Clamp, conv

LATENT_SIDE = 32
DOWNSCALE = 4

TEXT = {
    "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 3,
    "projection_dim": 128, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "max_position_embeddings": 77,
    "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
}

UNET = {
    "image_size": LATENT_SIDE, "in_channels": 4, "out_channels": 4, "model_channels": 64, "channel_mult": (1, 2, 3),
    "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 1, 1], "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1, "num_heads": 4, "num_head_channels": -1, "use_spatial_transformer": True,
    "use_linear_in_transformer": False, "context_dim": TEXT["hidden_size"], "adm_in_channels": None, "legacy": False,
}



class Autoencoder(TAESD):
    """The host's tiny autoencoder with two halvings instead of three: 128x128 pictures, 32x32 latents."""

    def __init__(self) -> None:
        super().__init__()
        self.taesd_encoder = torch.nn.Sequential(
            conv(3, 32), Block(32, 32),
            conv(32, 64, stride=2, bias=False), Block(64, 64),
            conv(64, 64, stride=2, bias=False), Block(64, 64), Block(64, 64),
            conv(64, 4),
        )
        self.taesd_decoder = torch.nn.Sequential(
            Clamp(), conv(4, 64), torch.nn.ReLU(), Block(64, 64), Block(64, 64),
            torch.nn.Upsample(scale_factor=2), conv(64, 64, bias=False), Block(64, 64),
            torch.nn.Upsample(scale_factor=2), conv(64, 32, bias=False), Block(32, 32),
            conv(32, 3),
        )
        self.vae_shift = torch.nn.Parameter(torch.zeros(1, 4, 1, 1))


def new_autoencoder(seed: int) -> Autoencoder:
    model = initialise(Autoencoder(), seed)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
    for block in model.modules():
        if isinstance(block, Block):
            block.conv[-1].weight.data.mul_(0.3)
    model.taesd_encoder[-1].weight.data.mul_(0.5)
    model.taesd_decoder[-1].weight.data.mul_(0.1)
    model.taesd_decoder[-1].bias.data.fill_(0.9)
    return model


def new_unet(seed: int) -> UNetModel:
    unet = initialise(UNetModel(**UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init), seed)
    for name, parameter in unet.named_parameters():
        if name.startswith("out.2.") or "out_layers.3." in name or "proj_out." in name:
            torch.nn.init.zeros_(parameter)
    return unet


def new_text_model(seed: int) -> torch.nn.Module:
    """The text transformer of `comfy.sd1_clip.SDClipModel`, with CLIP's initial scales for its embeddings."""
    clip = comfy.sd1_clip.SDClipModel(
        textmodel_json_config=dict(TEXT), dtype=torch.float32, freeze=False, return_projected_pooled=False,
        model_options={"custom_operations": comfy.ops.disable_weight_init},
    )
    text = initialise(clip.transformer, seed)
    torch.nn.init.normal_(text.text_model.embeddings.token_embedding.weight, std=0.1)
    torch.nn.init.normal_(text.text_model.embeddings.position_embedding.weight, std=0.02)
    return text


def initialise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give every layer PyTorch's default initial weights, which the host's layers skip."""
    torch.manual_seed(seed)
    for layer in module.modules():
        for kind in (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.Embedding):
            if isinstance(layer, kind):
                kind.reset_parameters(layer)
    return module.requires_grad_(True)


def learned_parameters(unet: UNetModel, text: torch.nn.Module) -> list[torch.nn.Parameter]:
    """What training changes, in a fixed order; token embeddings apart, of which only those of the captions learn."""
    fixed = ("token_embedding.", "text_projection.")
    return [*unet.parameters()] + [p for name, p in text.named_parameters() if not any(part in name for part in fixed)]
