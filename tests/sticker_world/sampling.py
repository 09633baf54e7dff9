"""Make pictures with Sticker World in the host, one prompt and a few seeds at a time."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.sample
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher

from .model import LATENT_SIDE

Conditioning = list
Method = Callable[[ModelPatcher, comfy.sd.CLIP, str], tuple[ModelPatcher, Conditioning]]


@dataclass(frozen=True)
class Settings:
    """What KSampler asks for."""

    steps: int = 20
    cfg: float = 5.0
    sampler: str = "dpmpp_2m"
    scheduler: str = "karras"
    negative: str = ""


FLOW = Settings(sampler="euler", scheduler="simple")
SETTINGS = {"unet": Settings(), "joint": FLOW, "cross": FLOW}  # of each model


def plain(model: ModelPatcher, clip: comfy.sd.CLIP, prompt: str) -> tuple[ModelPatcher, Conditioning]:
    """Plain classifier-free guidance: the model as it is and the prompt encoded as CLIP Text Encode does."""
    return model, encode(clip, prompt)


def encode(clip: comfy.sd.CLIP, prompt: str) -> Conditioning:
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def generate(
    world: tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE], prompt: str, seeds: Sequence[int],
    settings: Settings | None = None, method: Method = plain,
) -> torch.Tensor:
    """Pictures [len(seeds), 128, 128, 3] in 0..1. A seed gives the same noise whatever the prompt, method and batch."""
    return decode(world, sample(world, prompt, seeds, settings, method))


@torch.inference_mode()
def sample(world: tuple, prompt: str, seeds: Sequence[int], settings: Settings | None = None, method: Method = plain):
    """The latents of `generate`."""
    model, clip, _ = world
    settings = settings or Settings()
    patched, positive = method(model, clip, prompt)
    empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, LATENT_SIDE, LATENT_SIDE))
    noise = torch.cat([comfy.sample.prepare_noise(empty, seed) for seed in seeds])
    return comfy.sample.sample(
        patched, noise, settings.steps, settings.cfg, settings.sampler, settings.scheduler, positive,
        encode(clip, settings.negative), torch.zeros_like(noise), disable_pbar=True, seed=seeds[0],
    )


@torch.inference_mode()
def decode(world: tuple, latents: torch.Tensor) -> torch.Tensor:
    return world[2].decode(latents).flatten(0, -4).cpu().float().clamp(0, 1)
