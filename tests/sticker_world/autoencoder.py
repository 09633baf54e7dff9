"""Train Sticker World's autoencoder: 128x128 pictures to latents [4, 32, 32] and back."""
from __future__ import annotations

import random

import torch
import torch.distributed as dist
from tqdm import trange

from . import parallel
from .model import Autoencoder
from .scenes import draw, pick_things

STAGES = ((700, 0.5), (650, 1.0))  # steps, weight of the edges' error
LATENT_NOISE = 0.1
LATENT_WEIGHT = 1e-3


def random_pictures(count: int, seed: int) -> torch.Tensor:
    """Pictures of two or three stickers, uint8 [count, 128, 128, 3]."""
    rng = random.Random(seed)
    return torch.stack([torch.from_numpy(draw(pick_things(rng.choice((1, 2, 3)), rng), rng)[0]) for _ in range(count)])


def to_model(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in -1..1."""
    return pictures.movedim(-1, 1).contiguous().float() / 127.5 - 1


def edges(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([(x[..., 1:] - x[..., :-1]).flatten(1), (x[..., 1:, :] - x[..., :-1, :]).flatten(1)], 1)


def train(model: Autoencoder, stage: int, seed: int, crop: int = 64, batch: int = 32, rate: float = 2e-3) -> None:
    """Train on crops; the latents are kept small and get noise, so that the decoder forgives the UNet's errors."""
    steps, edge_weight = STAGES[stage]
    seed += stage
    device = next(model.parameters()).device
    model.vae_scale.requires_grad_(False)
    model.vae_shift.requires_grad_(False)
    learned = [p for p in model.parameters() if p.requires_grad]
    pictures = random_pictures(2000, seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    bar = trange(steps, desc=f"autoencoder {stage + 1}", disable=dist.get_rank() > 0)
    for step in bar:
        chosen = pictures[torch.randint(len(pictures), (batch,), generator=generator)]
        top, left = torch.randint(128 - crop + 1, (2,), generator=generator).tolist()
        x = to_model(parallel.mine(chosen)[:, top : top + crop, left : left + crop]).to(device)
        noise = parallel.mine(torch.randn(batch, 4, crop // 4, crop // 4, generator=generator)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            z = model.encode(x).float()
            y = model.decode(z + LATENT_NOISE * noise).float()
        error = (y - x).abs().mean()
        loss = error + edge_weight * (edges(y) - edges(x)).abs().mean() + LATENT_WEIGHT * (z**2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter, gradient in zip(learned, parallel.average([p.grad for p in learned]), strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(l1=f"{error.item():.4f}", z=f"{z.std().item():.2f}")
