"""A stand-in for an autoencoder: three channels of the latent as colours."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class StandInVAE:
    """What the host's nodes ask of a VAE. Video has four frames for each of the latent but the first, as with Wan."""

    def __init__(self, latent_format) -> None:
        self.downscale = latent_format.spacial_downscale_ratio

    def decode(self, samples: Tensor) -> Tensor:
        """[B, C, (T,) H, W] -> [B, (T',) H', W', 3] in 0..1."""
        video = samples.ndim == 5
        frames = samples.movedim(2, 1).flatten(0, 1) if video else samples
        picture = F.interpolate(frames[:, :3].float().cpu(), scale_factor=self.downscale, mode="bilinear")
        picture = torch.sigmoid(picture / picture.std().clamp_min(1e-6)).movedim(1, -1)
        if not video:
            return picture
        clip = picture.unflatten(0, (samples.shape[0], -1))
        return torch.cat([clip[:, :1], clip[:, 1:].repeat_interleave(4, dim=1)], dim=1)
