"""Train Sticker World: its autoencoder, text model, UNet and judge, or one of its transformers.

It goes on from the last checkpoint in its cache; the same seed gives the same training.
"""
from __future__ import annotations

import argparse
import math
from pathlib import Path

from . import host  # noqa: F401

# isort: split
import comfy.sd1_clip
import torch
import torch.distributed as dist
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_sampling import ModelSamplingDiscrete
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from . import autoencoder, train_transformer
from .cache import CACHE
from .dataset import CHUNK, EMPTY_CAPTIONS, training_chunk
from .export import export
from .learner import Learner, save
from .loader import MODELS, WEIGHTS, load_sticker_world
from .model import Autoencoder, learned_parameters, new_autoencoder, new_text_model, new_unet
from .parallel import mine, run
from .sampling import Settings
from .sheet import PROMPTS, draw_sheet
from .train_judge import make_judge

MIN_SNR = 5.0  # Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy, 2023
DEBIAS = 6.0  # Yu et al., Debias the Training of Diffusion Models, 2023: weight sigma, here up to this sigma
NOISE_BIAS = 0.7  # timesteps are 1000 u ** 0.7: more of the noisy ones, where the prompt decides


def text_states(text: torch.nn.Module, embeds: torch.Tensor) -> torch.Tensor:
    """The text model's last hidden state [B, 77, C] from token embeddings, as the host computes it.

    The host's own forward adds in place, which autograd does not allow.
    """
    model = text.text_model
    x = embeds + model.embeddings.position_embedding.weight
    mask = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max, dtype=x.dtype, device=x.device).triu_(1)
    for layer in model.encoder.layers:
        x = x + layer.self_attn(layer.layer_norm1(x), mask, attention_pytorch)
        x = x + layer.mlp(layer.layer_norm2(x))
    return model.final_layer_norm(x)


def encode_dataset(model: Autoencoder, count: int, seed: int, device: torch.device, folder: Path) -> dict:
    """The training set as latents [count, 4, 32, 32] and captions; every process encodes its share of the chunks."""
    chunks = range(math.ceil(count / CHUNK))
    paths = [folder / f"latents-{seed}-{chunk}.pt" for chunk in chunks]
    for chunk in tqdm(chunks[dist.get_rank() :: dist.get_world_size()], desc="latents", disable=dist.get_rank() > 0):
        if not paths[chunk].exists():
            pictures, captions = training_chunk(seed, chunk, CHUNK)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                parts = [model.encode(autoencoder.to_model(part).to(device)) for part in pictures.split(32)]
            save({"latents": torch.cat(parts).float().cpu(), "captions": captions}, paths[chunk])
    dist.barrier()
    parts = [torch.load(path) for path in paths]
    latents = torch.cat([part["latents"] for part in parts])
    mean = latents.mean((0, 2, 3), keepdim=True)
    std = (latents - mean).std()
    captions = [caption for part in parts for caption in part["captions"]]
    return {"latents": (latents - mean) / std, "mean": mean.flatten(), "std": std, "captions": captions}


def tokenize(captions: list[str]) -> torch.Tensor:
    """Token ids [len(captions), 77] by the host's SD1 tokenizer."""
    tokenizer = comfy.sd1_clip.SD1Tokenizer()
    return torch.tensor([[pair[0] for pair in tokenizer.tokenize_with_weights(text)["l"][0]] for text in captions])


class Trainer(Learner):
    """The UNet and the text model, which compute in bf16."""

    def __init__(self, seed: int, steps: int, rate: float, vocabulary: torch.Tensor, device: torch.device):
        self.unet, self.text = new_unet(seed).to(device), new_text_model(seed + 1).to(device)
        self.seed, self.device = seed, device
        table = self.text.text_model.embeddings.token_embedding.weight
        self.words = torch.nn.Parameter(table.detach()[vocabulary])
        self.text.text_model.embeddings.token_embedding.requires_grad_(False)
        initial = [p.detach().clone() for p in (*learned_parameters(self.unet, self.text), self.words)]
        self.unet.bfloat16()
        self.text.bfloat16()
        self.unet.dtype = torch.bfloat16
        super().__init__([*learned_parameters(self.unet, self.text), self.words], initial, steps, rate)
        self.sigmas = ModelSamplingDiscrete().sigmas.to(device)

    def update(self, latents: torch.Tensor, tokens: torch.Tensor, empty: torch.Tensor, batch: int) -> float:
        """One step on `batch` examples chosen by seed and step number; returns the mean squared error of eps."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        chosen = mine(torch.randint(len(latents), (batch,), generator=generator))
        x0 = latents[chosen].to(self.device)
        noise = mine(torch.randn(batch, *x0.shape[1:], generator=generator)).to(self.device)
        timestep = mine((1000 * torch.rand(batch, generator=generator) ** NOISE_BIAS).long()).to(self.device)
        blank = mine(torch.rand(batch, 1, generator=generator) < EMPTY_CAPTIONS)
        ids = torch.where(blank, empty, tokens[chosen]).to(self.device)
        sigma = self.sigmas[timestep].view(-1, 1, 1, 1)
        noised = (x0 + sigma * noise) / (sigma**2 + 1).sqrt()
        with sdpa_kernel(SDPBackend.MATH):
            context = text_states(self.text, torch.nn.functional.embedding(ids, self.words).bfloat16())
            eps = self.unet(noised.bfloat16(), timestep.float(), context).float()
            error = ((eps - noise) ** 2).mean((1, 2, 3))
            weight = (MIN_SNR * sigma**2).clamp(max=1) * sigma.clamp(1, DEBIAS)
            (weight.flatten() * error).mean().backward()
        self.learn()
        return error.mean().item()


def work(rank: int, args: argparse.Namespace) -> None:
    """One process of the training."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    coder = new_autoencoder(args.seed).to(device)
    for stage in range(len(autoencoder.STAGES)):
        path = args.cache / f"autoencoder-{stage}.pt"
        if path.exists():
            coder.load_state_dict(torch.load(path, map_location=device))
        else:
            autoencoder.train(coder, stage, args.seed)
            if rank == 0:
                save(coder.state_dict(), path)
    dist.barrier()

    data = encode_dataset(coder, args.scenes, args.seed, device, args.cache)
    vocabulary, tokens = tokenize(["", *data["captions"]]).unique(return_inverse=True)
    trainer = Trainer(args.seed, args.steps, args.rate, vocabulary, device)
    path = args.cache / "checkpoint.pt"
    if path.exists():
        trainer.load(torch.load(path, map_location=device))
    extra = {"vocabulary": vocabulary, "latent_mean": data["mean"], "latent_std": data["std"]}
    smooth = None
    with tqdm(total=args.steps, initial=trainer.step, desc="unet", disable=rank > 0) as bar:
        while trainer.step < args.steps:
            error = trainer.update(data["latents"], tokens[1:], tokens[0], args.batch)
            smooth = error if smooth is None else smooth + 0.02 * (error - smooth)
            bar.update()
            if trainer.step % 10 == 0:
                bar.set_postfix(eps=f"{smooth:.4f}", rate=f"{trainer.learning_rate():.1e}")
            if rank == 0 and (trainer.step % args.save_every == 0 or trainer.step == args.steps):
                save(trainer.state() | extra, path)
            if rank == 0 and trainer.step % args.sheet_every == 0:
                export(args.cache, args.cache / "weights", args.seed)
                world = load_sticker_world(args.cache / "weights")
                draw_sheet(world, PROMPTS[:12], (0,), 6, Settings()).save(args.cache / f"samples-{trainer.step}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="unet", help="what to train (%(default)s)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of checkpoints and latents (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000, help="steps of the model (%(default)s)")
    parser.add_argument("--scenes", type=int, default=16384, help="size of the training set (%(default)s)")
    parser.add_argument("--processes", type=int, default=1 if torch.cuda.is_available() else 2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate (%(default)s)")
    parser.add_argument("--save-every", type=int, default=150, help="steps between checkpoints (%(default)s)")
    parser.add_argument("--sheet-every", type=int, default=600, help="steps between sheets of samples (%(default)s)")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    if args.model != "unet":
        return train_transformer.train(args)
    run(work, args.processes, args)
    export(args.cache, WEIGHTS, args.seed)
    make_judge(args.seed)


if __name__ == "__main__":
    main()
