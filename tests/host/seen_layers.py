"""What an observer sees of a tiny transformer, beside what the host's attention was called with."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from host import tiny_dit
from torch import Tensor

from semantic_guidance.attention_hooks.families import model_family, model_layers
from semantic_guidance.attention_hooks.observe import Call, Observation, watch
from semantic_guidance.attention_hooks.override import OVERRIDE

NODE = "test"


class Seen(NamedTuple):
    """One call of the model."""

    uuids: list[Any]
    observations: list[Observation]
    raw: list[dict[str, Any]]  # what attention was called with, in order
    shown_at: list[int]  # for each observation, the number of the raw call that completed it


def watched(model, seen: list[Seen], chosen=None, before=None, after=None):
    """A clone of which every model call adds to `seen`. chosen: of its layers; all without.

    before, after: overrides of other nodes, which are called in front of and behind the one that watches.
    """
    family, layers = model_family(model, NODE), model_layers(model, NODE)
    layers = layers if chosen is None else [layers[number] for number in chosen]

    def apply_model(executor, x, t, c_concat, c_crossattn, control, options, *args, **kwargs):
        raw, found, shown_at = [], [], []

        def record(func, q, k, v, heads, *rest, **given):
            names = ("mask", "attn_precision", "skip_reshape")
            raw.append({**dict(zip(names, rest, strict=False)), **given, "q": q, "k": k, "heads": heads})
            following = after or (lambda func, *args, **kwargs: func(*args, **kwargs))
            return following(func, q, k, v, heads, *rest, **given)

        def observer(observation):
            found.append(observation)
            shown_at.append(len(raw))  # the recorder comes after

        call = Call.of(x, c_crossattn, kwargs, options)
        options = watch({**options, OVERRIDE: record}, family, call, layers, observer)
        if before is not None:
            options = {**options, OVERRIDE: before(options[OVERRIDE])}
        output = executor(x, t, c_concat, c_crossattn, control, options, *args, **kwargs)
        seen.append(Seen(options["uuids"], found, raw, shown_at))
        return output

    model = model.clone()
    model.add_wrapper_with_key("apply_model", NODE, apply_model)
    return model


def look(name: str, positive: list | None = None, noise: Tensor | None = None, chosen=None, **kwargs) -> Seen:
    """The one call of a single step at cfg 1."""
    seen: list[Seen] = []
    noise = first_noise(tiny_dit.latent(name)) if noise is None else noise
    samples = noise if name == "wan_flow" else tiny_dit.latent(name)  # which starts from a latent without noise
    tiny_dit.sample(
        watched(tiny_dit.model(name), seen, chosen, **kwargs), positive or tiny_dit.prompt(name),
        tiny_dit.prompt(name, 1), samples, cfg=1.0, steps=1, noise=noise,
    )
    (call,) = seen
    return call


def first_noise(samples: Tensor) -> Tensor:
    return torch.randn(samples.shape, generator=torch.Generator().manual_seed(5))


def explicit(call: dict[str, Any], queries: slice, keys: slice) -> Tensor:
    """The head mean of softmax(q k^T / sqrt(d) + mask), [B, Q, K] in float64, of a raw call.

    The whole is worked out; then rows of `queries` are divided by what they give to `keys`.
    """
    heads = call["heads"]
    q, k = (tensor.double() for tensor in (call["q"], call["k"]))
    if not call.get("skip_reshape"):
        width = q.shape[-1] // heads
        q, k = (tensor.reshape(*tensor.shape[:2], -1, width).transpose(1, 2) for tensor in (q, k))
    k = torch.stack([k[:, head * k.shape[1] // heads] for head in range(heads)], dim=1)
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
    mask = call.get("mask")
    if mask is not None:
        bias = mask.double() if mask.dtype != torch.bool else (~mask).double() * -1e9
        scores = scores + (bias if mask.ndim == 4 else bias.reshape(-1, 1, *mask.shape[-2:]))
    block = scores.softmax(-1)[:, :, queries, keys]
    return (block / block.sum(-1, keepdim=True)).mean(1)
