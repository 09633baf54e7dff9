"""Write the weights of a training checkpoint as fp16 safetensors. `python -m sticker_world.export --help`."""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from . import host  # noqa: F401

# isort: split
import torch
from safetensors.torch import save_file

from .autoencoder import STAGES, to_model
from .cache import CACHE
from .dataset import training_chunk
from .loader import WEIGHTS
from .model import DOWNSCALE, Autoencoder, learned_parameters, new_text_model, new_unet


def latent_format(coder: Autoencoder, std: torch.Tensor, seed: int) -> dict:
    """The scale of the latents and the least-squares map from scaled latents to the colours of their 4x4 pixels."""
    pictures = to_model(training_chunk(seed, 0, 256)[0])
    with torch.no_grad():
        latents = (coder.encode(pictures) / std).movedim(1, -1).flatten(0, 2)
    colours = torch.nn.functional.avg_pool2d(pictures, DOWNSCALE).movedim(1, -1).flatten(0, 2)
    design = torch.cat([latents, torch.ones(len(latents), 1)], 1)
    solution = torch.linalg.lstsq(design, colours).solution
    return {"scale_factor": 1 / std.item(), "rgb": solution[:4].tolist(), "rgb_bias": solution[4].tolist()}


def half(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().half().contiguous() for name, tensor in weights.items()}


def export(cache: Path, folder: Path, seed: int) -> None:
    """Write unet, text_model and autoencoder to `folder` from the running means of `cache`'s checkpoint."""
    checkpoint = torch.load(cache / "checkpoint.pt", map_location="cpu")
    unet, text = new_unet(seed), new_text_model(seed + 1)
    *means, words = checkpoint["mean"]
    with torch.no_grad():
        for parameter, mean in zip(learned_parameters(unet, text), means, strict=True):
            parameter.copy_(mean)
        text.text_model.embeddings.token_embedding.weight[checkpoint["vocabulary"]] = words
        text.text_projection.weight.copy_(torch.eye(len(text.text_projection.weight)))
    coder = Autoencoder()
    coder.load_state_dict(torch.load(cache / f"autoencoder-{len(STAGES) - 1}.pt", map_location="cpu"))
    coder.vae_shift.data = -checkpoint["latent_mean"].view(1, 4, 1, 1)
    metadata = {"latent_format": json.dumps(latent_format(coder, checkpoint["latent_std"], seed))}
    metadata["step"] = str(checkpoint["step"])
    folder.mkdir(exist_ok=True)
    save_file(half(unet.state_dict()), folder / "unet.safetensors", metadata)
    save_file(half(text.state_dict()), folder / "text_model.safetensors", {"step": metadata["step"]})
    save_file(half(coder.state_dict()), folder / "autoencoder.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    export(args.cache, args.folder, args.seed)


if __name__ == "__main__":
    main()
