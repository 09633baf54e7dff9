"""Sampling with and without SEGA on a tiny model of every family: pictures, video, and video with sound."""

from __future__ import annotations

from functools import cache

import comfy.nested_tensor
import comfy.utils
import torch
from host import tiny_dit
from torch import Tensor

SOUND = "ltxav"
FAMILIES = [*tiny_dit.MODELS, SOUND]


@cache
def _sound():
    """LTX with sound: the video's latent is 5-D, the sound's 4-D, and the host packs both into one."""
    return tiny_dit.build("LTXAV", dict(
        image_model="ltxav", in_channels=128, audio_in_channels=128, cross_attention_dim=64,
        audio_cross_attention_dim=64, attention_head_dim=32, audio_attention_head_dim=32, num_attention_heads=2,
        audio_num_attention_heads=2, caption_channels=tiny_dit.WIDTH, num_layers=2, connector_attention_head_dim=8,
        connector_num_attention_heads=2,
    ))


def of_family(name: str):
    """A clone of the model, as nodes make one."""
    return (_sound() if name == SOUND else tiny_dit.model(name)).clone()


def latent(name: str, batch: int = 1):
    if name != SOUND:
        return tiny_dit.latent(name, batch)
    return comfy.nested_tensor.NestedTensor([torch.zeros(batch, 128, 2, 5, 3), torch.zeros(batch, 8, 7, 16)])


def prompt(name: str, seed: int, tokens: int = tiny_dit.TOKENS, **values) -> list:
    if name != SOUND:
        return tiny_dit.prompt(name, seed, tokens, **values)
    return [[tiny_dit.noise(seed, 1, tokens, 2 * tiny_dit.WIDTH), values]]


def flat(samples) -> Tensor:
    return comfy.utils.pack_latents(samples.unbind())[0] if samples.is_nested else samples


def run(model, name: str, positive=None, batch: int = 1, **kwargs) -> Tensor:
    return flat(sampled(model, name, positive, batch, **kwargs))


def sampled(model, name: str, positive=None, batch: int = 1, **kwargs):
    """A few steps as KSampler does them. The positive and the negative prompt have unequal lengths."""
    positive = prompt(name, 0) if positive is None else positive
    negative = kwargs.pop("negative", None) or prompt(name, 1, tokens=7)
    settings = {"samples": latent(name, batch), "steps": 3, **kwargs}
    return tiny_dit.sample(model, positive, negative, **settings)


def alone(monkeypatch, model) -> None:
    """Makes the host call the model for each prompt alone, so that predictions do not depend on the others."""
    monkeypatch.setattr(model.model, "memory_required", lambda shape, **kwargs: 1e30)
