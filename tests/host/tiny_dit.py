"""Tiny transformers of the host's own classes, inside their real model classes, with prompts and latents.

`model("flux")` is a ModelPatcher that samples as a checkpoint would: its conds, latent format and noise schedule are
the host's own. Each builds in a fraction of a second and is kept for the session; tests clone it, as nodes do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import comfy.ldm.anima.model
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.supported_models
import torch
from host.tiny import CPU, DEVICE
from torch import Tensor

DTYPE = getattr(torch, os.environ.get("TEST_PRECISION", "float32"))  # few classes of the host know float64
WIDTH = 24  # of the text conditioning
TOKENS = 9  # of a prompt
POOLED = 32


class Tiny(NamedTuple):
    config: str  # the host's description of the family, in comfy.supported_models
    unet: dict[str, Any]
    latent: tuple[int, ...]  # channels and size: 5 x 3 positions in each of 2 frames
    extra: Callable[[int], dict[str, Any]] = lambda seed: {"pooled_output": noise(seed, 1, POOLED)}  # of a prompt
    width: int = WIDTH  # of its text


class _Vision:
    """What an encoder of pictures says."""

    def __init__(self, seed: int, tokens: int, width: int):
        self.penultimate_hidden_states = self.last_hidden_state = noise(seed, 1, tokens, width)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3000 + seed))


def _none(seed: int) -> dict[str, Any]:
    return {}


def _reference(*shape: int) -> Callable[[int], dict[str, Any]]:
    return lambda seed: {"pooled_output": noise(seed, 1, POOLED), "reference_latents": [noise(9, 1, *shape)]}


UNJOINED = ("hunyuan_ref",)  # the host cannot evaluate two prompts at once with this, unlike all others
MASKED = ("omnigen2", "omnigen2_ref", "boogu", "boogu_ref", "ltxv")  # their text encoders say which tokens are padding


_IMAGE, _VIDEO = (16, 10, 6), (16, 2, 10, 6)
_SD3 = dict(
    input_size=None, patch_size=2, in_channels=16, depth=2, num_blocks=4, pos_embed_max_size=32, num_patches=1024,
    adm_in_channels=POOLED, qk_norm="rms", pos_embed_scaling_factor=None,
    context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 128}},
)
_FLUX = dict(
    image_model="flux", in_channels=16, out_channels=16, patch_size=2, vec_in_dim=POOLED, context_in_dim=WIDTH,
    hidden_size=64, mlp_ratio=2.0, num_heads=2, depth=2, depth_single_blocks=2, axes_dim=[8, 12, 12], theta=10000,
    qkv_bias=True, guidance_embed=False, txt_ids_dims=[],
)
_CHROMA = dict(
    image_model="chroma", in_channels=64, out_channels=64, patch_size=2, context_in_dim=WIDTH, hidden_size=64,
    mlp_ratio=2.0, num_heads=2, depth=2, depth_single_blocks=2, axes_dim=[8, 12, 12], theta=10000, qkv_bias=True,
    in_dim=64, out_dim=64, hidden_dim=64, n_layers=2, txt_ids_dims=[], vec_in_dim=None,
)
_RADIANCE = dict(
    _CHROMA, image_model="chroma_radiance", in_channels=3, out_channels=3, patch_size=16, nerf_hidden_size=8,
    nerf_mlp_ratio=2, nerf_depth=1, nerf_max_freqs=2, nerf_tile_size=0, nerf_final_head_type="conv",
    nerf_embedder_dtype=None, use_x0=False, use_sequential_txt_ids=False,
)
_QWEN = dict(
    image_model="qwen_image", patch_size=2, in_channels=64, out_channels=16, num_layers=3, attention_head_dim=32,
    num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(8, 12, 12),
)
_LUMINA = dict(
    image_model="lumina2", patch_size=2, in_channels=16, dim=64, n_layers=3, n_refiner_layers=1, n_heads=2,
    n_kv_heads=2, multiple_of=16, norm_eps=1e-5, qk_norm=True, cap_feat_dim=WIDTH, axes_dims=[8, 12, 12],
    axes_lens=[64] * 3, rope_theta=10000.0,
)
_ZIMAGE = dict(
    _LUMINA, dim=256, n_heads=8, n_kv_heads=8, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32
)
_HUNYUAN = dict(
    image_model="hunyuan_video", patch_size=[1, 2, 2], in_channels=16, out_channels=16, vec_in_dim=POOLED,
    context_in_dim=WIDTH, hidden_size=64, mlp_ratio=2.0, num_heads=2, depth=2, depth_single_blocks=2,
    axes_dim=[8, 12, 12], theta=256, qkv_bias=True, guidance_embed=False, byt5=False, meanflow=False,
    use_cond_type_embedding=False, vision_in_dim=None, meanflow_sum=False,
)
_OMNIGEN = dict(
    image_model="omnigen2", patch_size=2, in_channels=16, hidden_size=64, num_layers=3, num_refiner_layers=1,
    num_attention_heads=4, num_kv_heads=2, multiple_of=16, axes_dim_rope=(4, 6, 6), axes_lens=(64, 64, 64),
)
_COSMOS = dict(
    max_img_h=64, max_img_w=64, max_frames=8, in_channels=16, out_channels=16, patch_spatial=2, patch_temporal=1,
    concat_padding_mask=True, model_channels=64, num_blocks=3, num_heads=2, mlp_ratio=2.0, crossattn_emb_channels=WIDTH,
    pos_emb_cls="rope3d", pos_emb_learnable=False, pos_emb_interpolation="crop", use_adaln_lora=True, adaln_lora_dim=16,
)
_COSMOS1 = dict(
    _COSMOS, image_model="cosmos", block_x_format="THWBD", affline_emb_norm=True, extra_per_block_abs_pos_emb=True,
    extra_per_block_abs_pos_emb_type="learnable",
)
_COSMOS2 = dict(_COSMOS, image_model="cosmos_predict2", extra_per_block_abs_pos_emb=False)
_WAN = dict(
    image_model="wan2.1", model_type="t2v", patch_size=(1, 2, 2), in_dim=16, out_dim=16, dim=64, ffn_dim=128,
    freq_dim=64, text_dim=WIDTH, num_heads=2, num_layers=3,
)
_KANDINSKY = dict(
    image_model="kandinsky5", in_visual_dim=16, out_visual_dim=16, in_text_dim=WIDTH, in_text_dim2=POOLED, time_dim=64,
    model_dim=64, ff_dim=128, visual_embed_dim=132, patch_size=(1, 2, 2), num_text_blocks=1, num_visual_blocks=3,
    axes_dims=(8, 12, 12),
)


def _hunyuan15(seed: int) -> dict[str, Any]:
    extra = {"conditioning_byt5small": noise(seed, 1, 3, 1472), "clip_vision_output": _Vision(8, 4, 16)}
    return {"pooled_output": None, **extra}


def _hidream(seed: int) -> dict[str, Any]:
    return {"pooled_output": noise(seed, 1, POOLED), "conditioning_llama3": noise(seed, 1, 2, 5, WIDTH)}


def _anima(seed: int) -> dict[str, Any]:
    ids = torch.randint(32128, (TOKENS - 2,), generator=torch.Generator().manual_seed(seed))
    return {"t5xxl_ids": ids, "t5xxl_weights": torch.ones(TOKENS - 2)}


MODELS: dict[str, Tiny] = {
    "sd3": Tiny("SD3", _SD3, _IMAGE),
    "sd35m": Tiny("SD3", dict(_SD3, x_block_self_attn_layers=[0]), _IMAGE),
    "aura": Tiny("AuraFlow", dict(
        in_channels=4, out_channels=4, patch_size=2, dim=64, n_layers=3, n_double_layers=2, n_heads=2,
        global_conddim=64, cond_seq_dim=WIDTH, max_seq=1024,
    ), (4, 10, 6)),
    "flux": Tiny("Flux", _FLUX, _IMAGE),
    "flux_ref": Tiny("Flux", _FLUX, _IMAGE, _reference(16, 4, 4)),
    "flux2": Tiny("Flux2", dict(
        _FLUX, image_model="flux2", in_channels=128, out_channels=128, patch_size=1, vec_in_dim=None, qkv_bias=False,
        global_modulation=True, mlp_silu_act=True, ops_bias=False, axes_dim=[8, 8, 8, 8], txt_ids_dims=[3], theta=2000,
    ), (128, 5, 3), _none),
    "longcat": Tiny("LongCatImage", dict(_FLUX, vec_in_dim=None, txt_ids_dims=[1, 2]), _IMAGE, _none),
    "chroma": Tiny("Chroma", _CHROMA, _IMAGE, _none),
    "radiance": Tiny("ChromaRadiance", _RADIANCE, (3, 80, 48), _none),
    "qwen": Tiny("QwenImage", _QWEN, (16, 1, 10, 6), _none),
    "qwen_ref": Tiny("QwenImage", _QWEN, (16, 1, 10, 6), _reference(16, 1, 4, 4)),
    "mageflow": Tiny("MageFlow", dict(
        image_model="mage_flow", in_channels=128, out_channels=128, num_layers=3, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(8, 12, 12),
    ), (128, 5, 3), _none),
    "krea2": Tiny("Krea2", dict(
        image_model="krea2", features=64, tdim=32, txtdim=WIDTH, heads=4, kvheads=2, multiplier=2, layers=3, patch=2,
        channels=16, txtlayers=2, txtheads=2, txtkvheads=2,
    ), (16, 1, 10, 6), _none, 2 * WIDTH),
    "lumina": Tiny("Lumina2", _LUMINA, _IMAGE, _none),
    "zimage": Tiny("ZImage", _ZIMAGE, _IMAGE, _none),
    "zimage_pixel": Tiny("ZImagePixelSpace", dict(
        _ZIMAGE, image_model="zimage_pixel", in_channels=3, patch_size=16, decoder_hidden_size=16,
        decoder_num_res_blocks=1, decoder_max_freqs=2,
    ), (3, 80, 48), _none),
    "hunyuan_video": Tiny("HunyuanVideo", _HUNYUAN, _VIDEO),
    "hunyuan_ref": Tiny("HunyuanVideo", _HUNYUAN, _VIDEO, lambda seed: {
        "pooled_output": noise(seed, 1, POOLED), "ref_latent": noise(9, 1, 16, 1, 10, 6)
    }),
    "hunyuan15": Tiny("HunyuanVideo15", dict(
        _HUNYUAN, in_channels=65, out_channels=32, vec_in_dim=None, byt5=True, use_cond_type_embedding=True,
        vision_in_dim=16, patch_size=[1, 1, 1],
    ), (32, 2, 5, 3), _hunyuan15),
    "hunyuan_image21": Tiny("HunyuanImage21", dict(
        _HUNYUAN, in_channels=64, out_channels=64, vec_in_dim=None, byt5=True, patch_size=[1, 1], axes_dim=[16, 16]
    ), (64, 5, 3), lambda seed: {"conditioning_byt5small": noise(seed, 1, 3, 1472)}),
    "omnigen2": Tiny("Omnigen2", dict(_OMNIGEN, text_feat_dim=WIDTH), _IMAGE, _none),
    "omnigen2_ref": Tiny("Omnigen2", dict(_OMNIGEN, text_feat_dim=WIDTH), _IMAGE, _reference(16, 4, 4)),
    "boogu": Tiny("Boogu", dict(
        _OMNIGEN, image_model="boogu", num_double_stream_layers=1, instruction_feat_dim=WIDTH
    ), _IMAGE, _none),
    "ideogram4": Tiny("Ideogram4", dict(
        image_model="ideogram4", in_channels=128, num_layers=3, num_attention_heads=2, attention_head_dim=32,
        intermediate_size=64, adaln_dim=16, llm_features_dim=WIDTH, mrope_section=(8, 4, 4),
    ), (128, 5, 3), _none),
    "cogvideo": Tiny("CogVideoX_T2V", dict(
        image_model="cogvideox", num_attention_heads=2, attention_head_dim=32, in_channels=16, out_channels=16,
        time_embed_dim=32, text_embed_dim=WIDTH, num_layers=3, use_rotary_positional_embeddings=True,
    ), _VIDEO, _none),
    "pixeldit": Tiny("PixelDiTT2I", dict(
        image_model="pixeldit_t2i", num_groups=2, hidden_size=64, pixel_hidden_size=4, pixel_attn_hidden_size=32,
        pixel_num_groups=2, patch_depth=3, pixel_depth=1, patch_size=4, txt_embed_dim=WIDTH, txt_max_length=16,
    ), (3, 20, 12), _none),
    "pid": Tiny("PiD", dict(
        image_model="pid", num_groups=2, hidden_size=64, pixel_hidden_size=4, pixel_attn_hidden_size=32,
        pixel_num_groups=2, patch_depth=3, pixel_depth=1, patch_size=4, txt_embed_dim=WIDTH, txt_max_length=16,
        lq_hidden_dim=8, lq_num_res_blocks=1, sr_scale=4, latent_spatial_down_factor=2, rope_ref_h=64, rope_ref_w=64,
    ), (3, 20, 12), lambda seed: {"lq_latent": noise(9, 1, 16, 3, 2), "degrade_sigma": torch.tensor([0.1])}),
    "hidream": Tiny("HiDream", dict(
        image_model="hidream", patch_size=2, in_channels=16, out_channels=16, num_layers=2, num_single_layers=2,
        attention_head_dim=32, num_attention_heads=2, caption_channels=[WIDTH, WIDTH], text_emb_dim=POOLED,
        num_routed_experts=2, num_activated_experts=1, axes_dims_rope=(16, 8, 8), max_resolution=(64, 64),
        llama_layers=[0, 1, 1, 1],
    ), _IMAGE, _hidream),
    "lens": Tiny("Lens", dict(
        image_model="lens", in_channels=128, out_channels=32, num_layers=3, attention_head_dim=32,
        num_attention_heads=2, enc_hidden_dim=WIDTH, axes_dims_rope=(8, 12, 12), selected_layer_index=(0, 1),
    ), (128, 5, 3), _none, 2 * WIDTH),
    "joyimage": Tiny("JoyImage", dict(
        image_model="joyimage", in_channels=16, hidden_size=64, num_attention_heads=2, text_dim=WIDTH, num_layers=3,
        rope_dim_list=[8, 12, 12],
    ), (16, 1, 10, 6), _none),
    "wan": Tiny("WAN21_T2V", _WAN, _VIDEO, _none),
    "wan_i2v": Tiny("WAN21_I2V", dict(_WAN, model_type="i2v", in_dim=36), _VIDEO, lambda seed: {
        "clip_vision_output": _Vision(8, 257, 1280), "concat_latent_image": noise(9, 1, 16, 2, 10, 6)
    }),
    "wan_vace": Tiny("WAN21_Vace", dict(_WAN, model_type="vace", vace_layers=1, vace_in_dim=96), _VIDEO, _none),
    "wan_ref": Tiny("WAN21_T2V", dict(_WAN, in_dim_ref_conv=16), _VIDEO, _reference(16, 1, 10, 6)),
    "wan_context": Tiny("WAN21_T2V", _WAN, _VIDEO, lambda seed: {
        "context_latents": [noise(8, 1, 16, 2, 10, 6), noise(9, 1, 16, 1, 4, 4)],
        "time_dim_concat": noise(7, 1, 16, 1, 10, 6),
    }),
    "wan_humo": Tiny("WAN21_HuMo", dict(_WAN, model_type="humo"), _VIDEO, _reference(16, 1, 10, 6)),
    "wan_scail": Tiny("WAN21_SCAIL", dict(_WAN, model_type="scail", in_dim=20), _VIDEO, lambda seed: {
        "reference_latents": [noise(9, 1, 16, 1, 10, 6)], "pose_video_latent": noise(8, 1, 16, 2, 6, 4)
    }),
    "wan22": Tiny("WAN22_T2V", dict(_WAN, in_dim=48, out_dim=48), (48, 2, 10, 6), _none),
    "cosmos1": Tiny("CosmosT2V", _COSMOS1, _VIDEO, _none),
    "cosmos2": Tiny("CosmosT2IPredict2", _COSMOS2, _VIDEO, _none),
    "anima": Tiny("Anima", dict(_COSMOS2, image_model="anima"), (16, 1, 10, 6), _anima),
    "ltxv": Tiny("LTXV", dict(
        image_model="ltxv", in_channels=128, cross_attention_dim=64, attention_head_dim=32, num_attention_heads=2,
        caption_channels=WIDTH, num_layers=3,
    ), (128, 2, 5, 3), _none),
    "kandinsky5": Tiny("Kandinsky5", _KANDINSKY, _VIDEO),
    "kandinsky5_image": Tiny("Kandinsky5Image", dict(_KANDINSKY, visual_embed_dim=64), (16, 10, 6)),
}
# Other classes of the same rows, which differ in what they take beside the prompt.
VARIANTS: dict[str, Tiny] = {
    **{
        f"{name}_ref": MODELS[name]._replace(extra=_reference(*shape)) for name, shape in {
            "mageflow": (128, 2, 2), "krea2": (16, 1, 4, 4), "boogu": (16, 4, 4), "joyimage": (16, 1, 4, 4),
            "flux2": (128, 2, 2),
        }.items()
    },
    "cogvideo15": MODELS["cogvideo"]._replace(
        unet={**MODELS["cogvideo"].unet, "patch_size_t": 2}, latent=(16, 3, 10, 6)  # two frames to a patch
    ),
    "hunyuan_i2v": Tiny("HunyuanVideoI2V", dict(_HUNYUAN, in_channels=33), _VIDEO),
    "hunyuan_skyreels": Tiny("HunyuanVideoSkyreelsI2V", dict(_HUNYUAN, in_channels=32), _VIDEO),
    "hunyuan15_sr": Tiny("HunyuanVideo15_SR_Distilled", dict(
        _HUNYUAN, in_channels=98, out_channels=32, vec_in_dim=None, byt5=True, use_cond_type_embedding=True,
        vision_in_dim=16, patch_size=[1, 1, 1],
    ), (32, 2, 5, 3), _hunyuan15),
    "hunyuan_refiner": Tiny("HunyuanImage21Refiner", dict(
        _HUNYUAN, in_channels=128, out_channels=64, vec_in_dim=None, patch_size=[1, 1, 1],
    ), (64, 2, 5, 3), _none),
    "wan_camera": Tiny("WAN21_Camera", dict(_WAN, model_type="camera", in_dim=32), _VIDEO, lambda seed: {
        "clip_vision_output": _Vision(8, 257, 1280), "camera_conditions": noise(7, 1, 24, 2, 80, 48),
    }),
    "wan_animate": Tiny("WAN22_Animate", dict(_WAN, model_type="animate", in_dim=36), _VIDEO, lambda seed: {
        "clip_vision_output": _Vision(8, 257, 1280), "pose_video_latent": noise(7, 1, 16, 1, 10, 6),
    }),
    "wan_dancer": Tiny("WAN22_WanDancer", dict(
        _WAN, model_type="wandancer", in_dim=36, audio_inject_layers=[0], music_dim=64, music_latent_dim=64,
    ), _VIDEO, lambda seed: {"clip_vision_output": _Vision(8, 257, 1280)}),
    "wan_flow": Tiny("WAN21_FlowRVS", _WAN, _VIDEO, _none),
    "wan_s2v": Tiny("WAN22_S2V", dict(
        _WAN, model_type="s2v", audio_dim=32, audio_inject_layers=[0], enable_adain=False,
    ), _VIDEO, _reference(16, 1, 10, 6)),
    "wan_scail2": Tiny("WAN21_SCAIL2", dict(_WAN, model_type="scail2", in_dim=20), _VIDEO, lambda seed: {
        "reference_latents": [noise(9, 1, 16, 1, 10, 6)], "pose_video_latent": noise(8, 1, 16, 2, 6, 4)
    }),
}


def _fill(module: torch.nn.Module, seed: int) -> None:
    """Random weights that keep activations their size; the host leaves them as the memory was."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                values /= max(parameter[0].numel(), 1) ** 0.5
            elif name.endswith("weight") or "scale" in name:
                values = torch.ones_like(values)
            else:
                values *= 0.1
            parameter.copy_(values)
        for name, buffer in module.named_buffers():
            if "pos_embed" in name and buffer.is_floating_point():
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)


def build(config: str, unet: dict[str, Any], dtype: torch.dtype = DTYPE, seed: int = 0):
    """A ModelPatcher around a transformer of this configuration."""
    described = getattr(comfy.supported_models, config)(unet)
    described.unet_config.update(unet)  # also where the host knows the size of the only checkpoint there is
    described.set_inference_dtype(dtype, None)
    model = described.get_model({}, "", CPU).eval()
    if config == "Anima":  # the size of its adapter is fixed: half a gigabyte
        model.diffusion_model.llm_adapter = comfy.ldm.anima.model.LLMAdapter(
            WIDTH, WIDTH, WIDTH, 1, 2, dtype=dtype, operations=comfy.ops.disable_weight_init
        )
    _fill(model.diffusion_model.requires_grad_(False), seed)
    return comfy.model_patcher.ModelPatcher(model, DEVICE, CPU)


def tiny(name: str) -> Tiny:
    return MODELS.get(name) or VARIANTS[name]


@cache
def model(name: str, dtype: torch.dtype = DTYPE):
    """The ModelPatcher of a row of MODELS."""
    return build(tiny(name).config, tiny(name).unet, dtype)


def prompt(name: str, seed: int = 0, tokens: int | None = None, **values) -> list:
    """A conditioning of random text embeddings, and what else this model takes from its text encoders."""
    shapes, tokens = tiny(name), TOKENS if tokens is None else tokens
    mask = {"attention_mask": torch.ones(1, tokens, dtype=torch.long)} if name in MASKED else {}
    return [[noise(seed, 1, tokens, shapes.width), {**shapes.extra(seed), **mask, **values}]]


def latent(name: str, batch: int = 1, scale: int = 1) -> Tensor:
    """Zeros; `scale` times as high and wide as the smallest."""
    channels, *frames, height, width = tiny(name).latent
    return torch.zeros((batch, channels, *frames, scale * height, scale * width))


def sample(
    model, positive, negative, samples: Tensor, cfg: float = 4.0, steps: int = 3, sampler: str = "euler",
    seed: int = 7, noise: Tensor | None = None, **kwargs,
) -> Tensor:
    """Sample as KSampler does."""
    noise = comfy.sample.prepare_noise(samples, seed) if noise is None else noise
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, "simple", positive, negative, samples, disable_pbar=True, seed=seed,
            **kwargs,
        )
