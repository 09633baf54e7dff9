"""The gradient of what a model attends to by its latent: one forward that stops early, and its backward."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import get_attention_function
from comfy.model_base import BaseModel
from comfy.patcher_extension import WrappersMP, copy_nested_dicts
from comfy.samplers import calc_cond_batch
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch import Tensor

from ...attention_hooks.families import Family, Layer
from ...attention_hooks.observe import OVERRIDE, Call, Observation, visible_layers, watch
from ...attention_hooks.probabilities import fold_repeats
from ..conds import ActiveCond, text_length
from ..run import EXTRA_PASS, PREFIX
from .frozen_layers import differentiable

log = logging.getLogger(__name__)
FP16_LOSS_SCALE = 2.0**12

Maps = dict[Any, Tensor]  # attention of each cond, by uuid: [B, h, w, tokens], the mean over layers and heads


class _Enough(Exception):
    """All layers were seen; the rest of the forward is not needed."""


class _Call:
    """One call of the model."""

    def __init__(self, x: Tensor, uuids: list[Any]):
        self.x = x  # the leaf, [chunks * B, ...]
        self.uuids = uuids
        self._sums: Maps = {}
        self._layers = 0

    def add(self, seen: Observation, lengths: dict[Any, int]) -> None:
        """Count one layer."""
        cross, rows = seen.cross_attention, len(self.x) // len(self.uuids)
        self._layers += 1
        for chunk, uuid in enumerate(self.uuids):
            attention = cross.select(slice(chunk * rows, (chunk + 1) * rows)).probabilities()
            attention = fold_repeats(attention, lengths[uuid]).unflatten(1, seen.grid[1:])
            self._sums[uuid] = self._sums[uuid] + attention if uuid in self._sums else attention

    def maps(self) -> Maps:
        return {uuid: total / self._layers for uuid, total in self._sums.items()}


class AttentionGradient:
    """Evaluates a loss on the attention of some prompts, and its gradient by the latent. Holds no tensors between."""

    def __init__(self, node: str, family: Family, layers: list[Layer]):
        self._node = node
        self._family = family
        self._layers = layers
        self._in_ram = False  # once the device's memory was too short, activations wait in RAM

    def __call__(
        self, model: BaseModel, active: list[ActiveCond], x: Tensor, sigma: Tensor, model_options: dict[str, Any],
        loss: Callable[[Maps], Tensor],
    ) -> Tensor:
        """The gradient of loss(maps), a sum over images, by x [B, C, H, W]. sigma: [B].

        `active` are the conds to look at; the host evaluates them as in sampling, with their areas, hooks and controls.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            return self._evaluate(model, active, x, sigma, model_options, loss)
        except Exception as error:
            comfy.model_management.raise_non_oom(error)
            if self._in_ram:
                raise
            log.warning("%s: memory is short, so activations wait in RAM. This is slower.", self._node)
        comfy.model_management.soft_empty_cache()
        self._in_ram = True
        return self._evaluate(model, active, x, sigma, model_options, loss)

    def _evaluate(
        self, model: BaseModel, active: list[ActiveCond], x: Tensor, sigma: Tensor, model_options: dict[str, Any],
        loss: Callable[[Maps], Tensor],
    ) -> Tensor:
        calls: list[_Call] = []
        lengths = {item.uuid: text_length(item.cond) for item in active}

        def apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs):
            saved = torch.autograd.graph.save_on_cpu() if self._in_ram else nullcontext()
            with differentiable(model, self._node), saved:
                call = _Call(x.clone().requires_grad_(), transformer_options["uuids"])
                calls.append(call)
                options = self._watch(transformer_options, Call.of(x, c_crossattn, kwargs), call, lengths)
                if control is not None:
                    options = _with_copied_skips(options)
                try:
                    executor(call.x, t, c_concat, c_crossattn, control, options, *args, **kwargs)
                except _Enough:
                    pass
            return torch.zeros_like(x)

        options = copy_nested_dicts(model_options)
        options.pop("multigpu_clones", None)
        transformer_options = options.setdefault("transformer_options", {})
        transformer_options[EXTRA_PASS] = True
        wrappers = transformer_options.setdefault("wrappers", {}).setdefault(WrappersMP.APPLY_MODEL, {})
        wrappers.pop(COMPILE_KEY, None)  # what is compiled has no place to stop
        wrappers[f"{PREFIX}.gradient"] = [apply_model]  # the last is called last, next to the model
        calc_cond_batch(model, [[item.cond for item in active]], x, sigma, options)

        with torch.inference_mode(False), torch.enable_grad():
            maps = {uuid: attention for call in calls for uuid, attention in call.maps().items()}
            self._check(maps, active)
            value = loss(maps)
            gradients = _gradients(value, [call.x for call in calls], model.get_dtype_inference())
        views = {item.uuid: item.view for item in active}
        total = torch.zeros_like(x)
        for call, gradient in zip(calls, gradients, strict=True):
            for uuid, part in zip(call.uuids, gradient.chunk(len(call.uuids)), strict=True):
                total[(..., *views[uuid])] += part
        return total

    def _watch(
        self, options: dict[str, Any], described: Call, call: _Call, lengths: dict[Any, int]
    ) -> dict[str, Any]:
        layers = visible_layers(options, self._layers)
        waiting = set(layers)

        def observer(observation: Observation) -> None:
            call.add(observation, lengths)
            waiting.discard(observation.layer)
            if not waiting:
                raise _Enough

        return watch({**options, OVERRIDE: _attention_with_gradient}, self._family, described, layers, observer)

    def _check(self, maps: Maps, active: list[ActiveCond]) -> None:
        if any(item.uuid not in maps for item in active):
            raise ValueError(
                f"{self._node}: another node replaces every attention layer that this node reads, or spares the call "
                "of the model. Remove that node, limit it to fewer blocks, or choose another map_scale."
            )
        if len({item.cond.get("hooks") for item in active}) > 1:
            raise ValueError(
                f"{self._node}: the prompts with these words have different hooks (LoRA by prompt, for instance). Give "
                "them the same hooks, or name words of prompts that share them."
            )


def _with_copied_skips(options: dict[str, Any]) -> dict[str, Any]:
    """Options in which blocks go on with copies, since a ControlNet adds to skip connections in place."""
    name = "input_block_patch_after_skip"
    patches = options.get("patches", {})
    return {**options, "patches": {**patches, name: [*patches.get(name, []), lambda h, transformer_options: h.clone()]}}


def _attention_with_gradient(func, *args, **kwargs) -> Tensor:
    """Faster backends may lack a backward."""
    return get_attention_function("pytorch")(*args, **kwargs)


def _gradients(loss: Tensor, leaves: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """In fp16 small gradients vanish and large ones overflow, so the loss is scaled, less where that is too much."""
    scale = FP16_LOSS_SCALE if dtype == torch.float16 else 1.0
    while True:
        gradients = torch.autograd.grad(loss * scale, leaves, retain_graph=scale > 1)
        if scale == 1 or all(gradient.isfinite().all() for gradient in gradients):
            return [gradient / scale for gradient in gradients]
        scale /= 16
