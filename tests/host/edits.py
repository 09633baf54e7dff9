"""A node that changes attention as a test says, on any tiny model."""

from __future__ import annotations

import torch
from torch import Tensor

from semantic_guidance.attention_hooks.edits import Change, Edit
from semantic_guidance.attention_hooks.families import every_layer, model_family
from semantic_guidance.attention_hooks.weigh import edited
from semantic_guidance.sampling.conds import text_length
from semantic_guidance.sampling.run import Run, add_run

NODE = "test"


class Told(Edit):
    """Changes the positive prompt's attention alike in every layer, or as a function of the Site says."""

    def __init__(self, told):
        super().__init__(NODE)
        self.told = told
        self.lengths = {}
        self.sites = []

    def change(self, site):
        if site.uuid not in self.lengths:
            return None
        self.sites.append(site)
        told = self.told(site) if callable(self.told) else self.told
        return told and Change(self.lengths[site.uuid], **told)


class EditRun(Run):
    node = NODE

    def __init__(self, guider, edit):
        model = guider.model_patcher
        self.family, self.layers = model_family(model, NODE), every_layer(model, NODE)
        self.edit = edit

    def begin_run(self, processing):
        self.edit.lengths = {cond["uuid"]: text_length(cond) for cond in processing.guider.conds["positive"]}

    def edit_forward(self, call, transformer_options):
        return edited(transformer_options, self.family, call, self.layers, self.edit)


def with_edit(model, **told):
    """A clone with this Change, and its Edit."""
    return with_told(model, told)


def with_told(model, told) -> tuple:
    model, edit = model.clone(), Told(told)
    add_run(model, lambda guider, sigmas: EditRun(guider, edit))
    return model, edit


def overridden(model, override):
    """A clone with another node's override of attention."""
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


def calls_of(model, calls: list):
    """A clone of which every attention call is noted: (queries, keys, rows)."""
    def override(func, q, k, v, heads, *args, **kwargs):
        axis = 2 if kwargs.get("skip_reshape") else 1
        calls.append((q.shape[axis], k.shape[axis], len(q)))
        return func(q, k, v, heads, *args, **kwargs)

    return overridden(model, override)


def biased(model, bias):
    """A clone whose attention gets bias(queries, keys) [.., Q, K] added to its scores; None for none."""
    def override(func, q, k, v, heads, *args, **kwargs):
        axis = 2 if kwargs.get("skip_reshape") else 1
        added = bias(q.shape[axis], k.shape[axis])
        if added is not None:
            mask = kwargs.get("mask", args[0] if args else None)
            added = added.to(q)
            added = added.reshape(-1, 1, *added.shape[-2:])
            if mask is not None:
                if mask.dtype == torch.bool:
                    mask = torch.zeros(mask.shape).to(q).masked_fill(~mask, -torch.inf)
                added = added + (mask if mask.ndim == 4 else mask.reshape(-1, 1, *mask.shape[-2:]))
            kwargs, args = {**kwargs, "mask": added}, ()
        return func(q, k, v, heads, *args, **kwargs)

    return overridden(model, override)


def logs(weights: dict[int, float], length: int) -> Tensor:
    """[length]: the logarithm of each token's weight."""
    bias = torch.zeros(length)
    for column, weight in weights.items():
        bias[column] = torch.tensor(float(weight)).log()
    return bias
