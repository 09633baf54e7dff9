"""Train Sticker World's transformers. `python dev.py train --model joint | cross`.

Flow matching (the model predicts noise - latent) on the scenes of the UNet, with its text model and autoencoder as they
are. It goes on from the last checkpoint in its cache; the same seed gives the same training.
"""
from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from . import host  # noqa: F401

# isort: split
import comfy.model_management
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tqdm import tqdm

from .autoencoder import to_model
from .dataset import CHUNK, EMPTY_CAPTIONS, training_chunk
from .learner import Learner, save
from .loader import WEIGHTS, load_sticker_world, make_model, read_weights
from .model import Autoencoder
from .parallel import mine, run
from .sampling import SETTINGS
from .sheet import PROMPTS, draw_sheet
from .transformers import SHIFT, TRANSFORMERS


def encode_scenes(folder: Path, count: int, seed: int) -> dict[str, torch.Tensor]:
    """The training set, encoded once; every process encodes its share of the chunks.

    latents [count, 4, 32, 32] at the scale that the model sees, text [count + 1, 77, 128] and pooled
    [count + 1, 128], all fp16. The last text is the empty prompt.
    """
    chunks = range(-(-count // CHUNK))
    paths = [folder / f"encoded-{seed}-{chunk}.pt" for chunk in chunks]
    coder = Autoencoder()
    coder.load_state_dict(read_weights("autoencoder")[0])
    scale = json.loads(read_weights("unet")[1]["latent_format"])["scale_factor"]
    _, clip, _ = load_sticker_world()

    def text(captions: list[str]) -> dict[str, torch.Tensor]:
        encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(caption))[0] for caption in captions]
        states, pooled = zip(*((state, extra["pooled_output"]) for state, extra in encoded), strict=True)
        return {"text": torch.cat(states).half(), "pooled": torch.cat(pooled).half()}

    with torch.no_grad():
        for chunk in tqdm(chunks[dist.get_rank() :: dist.get_world_size()], desc="scenes", disable=dist.get_rank() > 0):
            if not paths[chunk].exists():
                pictures, captions = training_chunk(seed, chunk, CHUNK)
                latents = torch.cat([scale * coder.encode(to_model(part)) for part in pictures.split(32)])
                save({"latents": latents.half()} | text(captions), paths[chunk])
        dist.barrier()
        parts = [torch.load(path) for path in paths]
        empty = text([""])
    return {
        "latents": torch.cat([part["latents"] for part in parts]),
        "text": torch.cat([*(part["text"] for part in parts), empty["text"]]),
        "pooled": torch.cat([*(part["pooled"] for part in parts), empty["pooled"]]),
    }


class FlowTrainer(Learner):
    """A transformer that computes in bf16."""

    def __init__(self, name: str, seed: int, steps: int, rate: float, device: torch.device):
        self.kind, self.seed, self.device = TRANSFORMERS[name], seed, device
        self.network = self.kind.new(seed).to(device)
        initial = [p.detach().clone() for p in self.network.parameters()]
        self.network.bfloat16()
        self.network.dtype = torch.bfloat16
        if self.kind.video:
            self.network.patch_embedding.float()  # the host hands it float32
        named = self.network.named_parameters()
        hidden = [value.ndim == 2 and "blocks" in key and "adaLN" not in key for key, value in named]
        super().__init__(list(self.network.parameters()), initial, steps, rate, hidden)

    def update(self, data: dict[str, torch.Tensor], batch: int) -> float:
        """One step on `batch` examples chosen by seed and step number; returns the mean squared error of the flow."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        count = len(data["latents"])
        chosen = mine(torch.randint(count, (batch,), generator=generator))
        x0 = data["latents"][chosen].to(self.device).float()
        noise = mine(torch.randn(batch, *x0.shape[1:], generator=generator)).to(self.device)
        u = mine(torch.randn(batch, generator=generator)).sigmoid().to(self.device)
        t = SHIFT * u / (1 + (SHIFT - 1) * u)
        blank = mine(torch.rand(batch, generator=generator) < EMPTY_CAPTIONS)
        said = torch.where(blank, count, chosen)
        text, pooled = (data[name][said].to(self.device, torch.bfloat16) for name in ("text", "pooled"))
        mix = t.view(-1, 1, 1, 1)
        noised = (1 - mix) * x0 + mix * noise
        error = ((self.predict(noised, t, text, pooled) - (noise - x0)) ** 2).mean()
        error.backward()
        self.learn()
        return error.item()

    def predict(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """noise - latent [B, 4, 32, 32] at times t in 0..1."""
        options = {"optimized_attention_override": plain_attention}
        if self.kind.video:
            x = x.bfloat16().unsqueeze(2)
            return self.network(x, 1000 * t, text, transformer_options=options).float().squeeze(2)
        return self.network(x.bfloat16(), 1000 * t, context=text, y=pooled, transformer_options=options).float()


def plain_attention(_, q, k, v, heads, mask=None, skip_reshape=False, **_options) -> torch.Tensor:
    """softmax(q k^T) v by batched products: in bf16 on a CPU several times faster than what the host takes."""
    if not skip_reshape:
        q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    batch, size = q.shape[0], q.shape[-1]
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # [B heads, tokens, d]
    scores = torch.baddbmm(q.new_zeros(()), q, k.mT, beta=0, alpha=size**-0.5)
    return (scores.softmax(-1) @ v).unflatten(0, (batch, heads)).transpose(1, 2).flatten(2)


def export_transformer(trainer: FlowTrainer, name: str, folder: Path) -> None:
    """Write the running mean of the weights as fp16."""
    names = [key for key, _ in trainer.network.named_parameters()]
    half = {key: value.detach().cpu().half().contiguous() for key, value in zip(names, trainer.mean, strict=True)}
    metadata = read_weights("unet")[1] | {"step": str(trainer.step)}
    save_file(half, folder / f"{name}.safetensors", metadata)


def work(rank: int, args: argparse.Namespace) -> None:
    """One process of the training."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = encode_scenes(args.cache, args.scenes, args.seed)
    comfy.model_management.in_training = True  # rotary positions with a gradient
    trainer = FlowTrainer(args.model, args.seed, args.steps, args.rate, device)
    path = args.cache / f"{args.model}.pt"
    if path.exists():
        trainer.load(torch.load(path, map_location=device))
    smooth = None
    with tqdm(total=args.steps, initial=trainer.step, desc=args.model, disable=rank > 0) as bar:
        while trainer.step < args.steps:
            error = trainer.update(data, args.batch)
            smooth = error if smooth is None else smooth + 0.02 * (error - smooth)
            bar.update()
            if trainer.step % 10 == 0:
                bar.set_postfix(flow=f"{smooth:.4f}", rate=f"{trainer.learning_rate():.1e}")
            done = trainer.step == args.steps
            if rank == 0 and (trainer.step % args.save_every == 0 or done):
                save(trainer.state(), path)
                export_transformer(trainer, args.model, args.cache)
            if rank == 0 and (trainer.step % args.sheet_every == 0 or done):
                sheet(args).save(args.cache / f"{args.model}-{trainer.step}.png")


def sheet(args: argparse.Namespace):
    """What the model of the cache draws now."""
    comfy.model_management.in_training = False
    try:
        world = (make_model(args.model, *read_weights(args.model, args.cache)), *load_sticker_world()[1:])
        return draw_sheet(world, PROMPTS[:12], (0,), 6, SETTINGS[args.model])
    finally:
        comfy.model_management.in_training = True


def train(args: argparse.Namespace) -> None:
    """Train to the end and write the weights into the repository."""
    run(work, args.processes, args)
    shutil.copy(args.cache / f"{args.model}.safetensors", WEIGHTS)
