"""S-CFG on transformers by loops and whole matrices in float64, to compare the node with.

It takes queries and keys from `watch`, which has tests of its own, and shares nothing else with the pack.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semantic_guidance.attention_hooks.families import layers_at, model_family, model_layers
from semantic_guidance.attention_hooks.observe import Call, Observation, watch

TAPS = torch.tensor([0.21194156, 0.57611688, 0.21194156], dtype=torch.float64)
NEGATIVE, POSITIVE = 1, 0


def scores(attention, queries: Tensor) -> Tensor:
    """[B, heads, Q, K] of some queries [B, heads, Q, d]."""
    keys = attention.k.double().repeat_interleave(queries.shape[1] // attention.k.shape[1], dim=1)
    found = queries @ keys.mT * (queries.shape[-1] ** -0.5 if attention.scale is None else attention.scale)
    return found if attention.mask is None else found + attention.mask[..., :1, :].double()


def cells(values: Tensor, grid: tuple[int, int, int], mean: bool) -> Tensor:
    """Sums or means over cells of 2 x 2 positions in each frame. [..., t * h * w, d] -> [..., cells, d]."""
    frames, height, width = grid
    found = []
    positions = values.unflatten(-2, grid)
    for frame in range(frames):
        for row in range(0, height, 2):
            for column in range(0, width, 2):
                cell = positions[..., frame, row : row + 2, column : column + 2, :].flatten(-3, -2)
                found.append(cell.mean(dim=-2) if mean else cell.sum(dim=-2))
    return torch.stack(found, dim=-2)


def layer_maps(seen: Observation, rows: slice, columns: list[int], pool: bool) -> Tensor:
    """The completed and smoothed maps [B, columns, t, h, w] of one layer."""
    frames, height, width = seen.grid
    if not pool:
        return smooth(fine_maps(seen, rows, columns))
    coarse = (frames, -(-height // 2), -(-width // 2))
    text, own = (attention.select(rows) for attention in (seen.cross_attention, seen.self_attention))
    cross = scores(text, text.q.double()).softmax(dim=-1).mean(dim=1)[..., columns]
    cross = cells(cross, seen.grid, mean=True)  # [B, cells, columns]
    pooled = cells(own.q.double(), seen.grid, mean=True).unflatten(2, (frames, -1))
    completed = []
    for frame in range(frames):
        keys = slice(frame * height * width, (frame + 1) * height * width)
        probabilities = scores(own, pooled[:, :, frame])[..., keys].softmax(dim=-1).mean(dim=1)
        s = cells(probabilities.mT, (1, height, width), mean=False).mT
        completed.append((s + 3 * s @ s) / 4 @ cross.unflatten(1, (frames, -1))[:, frame])
    return smooth(torch.cat(completed, dim=1).mT.unflatten(2, coarse))


def fine_maps(seen: Observation, rows: slice, columns: list[int]) -> Tensor:
    """Completed between all positions of a frame. [B, columns, t, h, w]."""
    frames, height, width = seen.grid
    text, own = (attention.select(rows) for attention in (seen.cross_attention, seen.self_attention))
    cross = scores(text, text.q.double()).softmax(dim=-1).mean(dim=1)[..., columns]
    completed = []
    for frame in range(frames):
        at = slice(frame * height * width, (frame + 1) * height * width)
        s = scores(own, own.q.double()[:, :, at])[..., at].softmax(dim=-1).mean(dim=1)
        completed.append((s + 3 * s @ s) / 4 @ cross[:, at])
    return torch.cat(completed, dim=1).mT.unflatten(2, seen.grid)


def smooth(maps: Tensor) -> Tensor:
    """[B, N, t, h, w], frame by frame."""
    kernel = torch.outer(TAPS, TAPS)[None, None]
    frames = maps.flatten(0, 2)[:, None]
    for axis in (-1, -2):  # reflect, where there is something to reflect
        frames = torch.cat([frames.narrow(axis, min(1, frames.shape[axis] - 1), 1), frames,
                            frames.narrow(axis, max(frames.shape[axis] - 2, 0), 1)], dim=axis)
    return F.conv2d(frames, kernel).view(maps.shape)


def nearest(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """[B, t, h, w] -> [B, T, H, W]."""
    for axis, length in enumerate(size, start=1):
        maps = maps.index_select(axis, torch.tensor([n * maps.shape[axis] // length for n in range(length)]))
    return maps


class NaiveSCFG:
    """columns: of the words, among the text tokens that the model attends to. pool: positions by 2 x 2."""

    def __init__(self, columns: list[int], start: bool = False, pool: bool = True):
        self.pool = pool
        self.columns = columns
        self.start = start
        self.seen: list[tuple[list[int], Observation]] = []

    def install(self, model):
        family = model_family(model, "test")
        _, layers = layers_at(family, model_layers(model, "test"), None, "test")
        model = model.clone()

        def apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs):
            prompts = transformer_options["cond_or_uncond"]
            call = Call.of(x, c_crossattn, kwargs, transformer_options)
            options = watch(transformer_options, family, call, layers, lambda o: self.seen.append((prompts, o)))
            return executor(x, t, c_concat, c_crossattn, control, options, *args, **kwargs)

        model.add_wrapper_with_key("apply_model", "test", apply_model)
        model.set_model_sampler_post_cfg_function(self.guided)
        return model

    def maps(self, prompt: int, columns: list[int]) -> list[Tensor]:
        found = []
        for prompts, seen in self.seen:
            batch = len(seen.self_attention.q) // len(prompts)
            for chunk, index in enumerate(prompts):
                if index == prompt:
                    found.append(layer_maps(seen, slice(chunk * batch, (chunk + 1) * batch), columns, self.pool))
        return found

    def guided(self, args: dict) -> Tensor:
        scale = args["cond_scale"]
        cond, uncond = args["cond_denoised"].double(), args["uncond_denoised"].double()
        size = tuple(cond.shape[2:])
        size = (1,) * (3 - len(size)) + size
        norm = (cond - uncond).norm(dim=1).view(-1, *size)
        tokens = sum(m / (m.mean(dim=(2, 3, 4), keepdim=True) + 1e-8) for m in self.maps(POSITIVE, self.columns))
        owner = nearest(tokens.argmax(dim=1), size)
        reference = torch.ones_like(norm, dtype=torch.bool)
        if self.start:
            pairs = [torch.cat([m, 1 - m], dim=1) for m in self.maps(NEGATIVE, [0])]
            pair = sum(p / p.mean(dim=(2, 3, 4), keepdim=True) for p in pairs)
            reference = nearest(pair[:, 1] > pair[:, 0], size)
        rate = torch.zeros_like(norm)
        for image in range(len(norm)):
            level = norm[image][reference[image]].mean() if reference[image].any() else 0.0
            for word in owner[image].unique():
                region = owner[image] == word
                rate[image][region] = level / norm[image][region].mean()
        rate = smooth(rate.clamp(0.8, 3.0).clamp(max=15 / scale)[:, None])[:, 0].view(-1, 1, *cond.shape[2:])
        self.seen.clear()
        return (uncond + scale * rate * (cond - uncond)).to(args["denoised"].dtype)
