"""The gradient of what a model attends to by its latent: one forward that stops early, and its backward."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import get_attention_function
from comfy.model_base import BaseModel
from comfy.patcher_extension import WrappersMP, copy_nested_dicts
from comfy.samplers import calc_cond_batch
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch import Tensor

from ...attention_hooks.families import POOL, Family
from ...attention_hooks.layouts import Grid, Layer
from ...attention_hooks.observe import Call, Observation, visible_layers, watch
from ...attention_hooks.override import OVERRIDE, Override
from ...attention_hooks.probabilities import Attention, fold_repeats
from ..conds import ActiveCond, sides
from ..run import EXTRA_PASS, PREFIX, uncompiled
from .frozen_layers import InferenceTensorsAsNormal, differentiable
from .neighbours import columns_per_token, refusal, with_copies, without_caches
from .subjects import Attended, Maps, Subjects

log = logging.getLogger(__name__)
FP16_LOSS_SCALE = 2.0**12


class _Enough(Exception):
    """All layers were seen; the rest of the forward is not needed."""


class _Pass:
    """One call of the model."""

    def __init__(self, x: Tensor, uuids: list[Any]):
        self.x = x  # the leaf, [chunks * B, ...]
        self.uuids = uuids
        self._sums: dict[Any, list[Tensor]] = {}
        self._layers = 0

    def add(self, seen: Observation, subjects: Subjects, pool: bool) -> None:
        """Count one layer. pool: as seen from cells of 2 x 2 positions, each with its mean query."""
        cross, rows, (frames, *grid) = seen.cross_attention, len(self.x) // len(self.uuids), seen.grid
        if pool:
            cross, grid = cross.pooled(seen.grid, keys=False), [-(-length // POOL) for length in grid]
        grid = grid if self.x.ndim == 4 else [frames, *grid]
        self._layers += 1
        for chunk, uuid in enumerate(self.uuids):
            part = slice(chunk * rows, (chunk + 1) * rows)
            text = cross.select(part)
            length, compared, *_ = subjects.tokens[uuid]
            if compared < length:  # as if there were no others
                text, length = text.block(slice(None), slice(0, compared)), compared
            found = [fold_repeats(text.probabilities(), length).unflatten(1, grid)]
            if subjects.needs_own:
                found.append(_within_frames(seen.self_attention.select(part), seen.grid, pool))
            before = self._sums.get(uuid)
            self._sums[uuid] = [a + b for a, b in zip(before, found, strict=True)] if before else found

    def maps(self) -> Maps:
        return {uuid: Attended(*(total / self._layers for total in sums)) for uuid, sums in self._sums.items()}


def _within_frames(attention: Attention, grid: Grid, pool: bool) -> Tensor:
    """The attention of the positions, or cells, of each frame to those of the same frame, [B, T, P, P]."""
    frames = attention.frames(grid[0], keys=True)
    frames = [frame.pooled((1, *grid[1:]), keys=True) for frame in frames] if pool else frames
    return torch.stack([frame.probabilities() for frame in frames], dim=1)


class AttentionGradient:
    """Evaluates a loss on the attention of some prompts, and its gradient by the latent. Holds no tensors between."""

    def __init__(self, node: str, family: Family, layers: list[Layer], dtype: torch.dtype):
        self._node = node
        self._family = family
        self._layers = layers
        self._in_ram = False  # once the device's memory was too short, activations wait in RAM
        self._as_normal = False  # once another node's code met inference tensors, it is shown normal ones
        self._loss_scale = FP16_LOSS_SCALE if dtype == torch.float16 else 1.0  # in fp16 small gradients vanish

    def scale_down(self) -> bool:
        """Take the next gradients of a smaller loss, as large ones overflow in fp16. False if it is the smallest."""
        if self._loss_scale == 1:
            return False
        self._loss_scale /= 16
        return True

    def __call__(
        self, model: BaseModel, subjects: Subjects, x: Tensor, sigma: Tensor, model_options: dict[str, Any]
    ) -> Tensor:
        """The gradient of subjects.loss(maps), a sum over images, by x [B, C, H, W]. sigma: [B].

        The host evaluates the subjects' conds as in sampling, with their areas, hooks and controls.
        Raises ValueError, naming what other nodes have put into the model, where they leave no gradient.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            return self._evaluate(model, subjects, x, sigma, model_options)
        except Exception as error:
            retry = self._other_way(error)
            if not retry:
                self._refuse(error, model, model_options)
                raise
        comfy.model_management.soft_empty_cache()
        return self(model, subjects, x, sigma, model_options)

    def _other_way(self, error: Exception) -> bool:
        """Whether the pass may succeed when it is tried again as is now noted."""
        if comfy.model_management.is_oom(error) and not self._in_ram:
            log.warning("%s: memory is short, so activations wait in RAM. This is slower.", self._node)
            self._in_ram = True
            return True
        if "Inference tensors" in str(error) and not self._as_normal:
            self._as_normal = True
            return True
        return False

    def _refuse(self, error: Exception, model: BaseModel, model_options: dict[str, Any]) -> None:
        """Say in a sentence what went wrong, unless it is one already, or has nothing to do with other nodes."""
        if comfy.model_management.is_oom(error) or str(error).startswith(f"{self._node}:"):
            return
        told = refusal(self._node, error, model.diffusion_model, model_options)
        if told is not None:
            raise told from error

    def _evaluate(
        self, model: BaseModel, subjects: Subjects, x: Tensor, sigma: Tensor, model_options: dict[str, Any]
    ) -> Tensor:
        active = subjects.active
        calls: list[_Pass] = []
        views = {item.uuid: item.view for item in active}
        sizes = {item.uuid: (len(x), *item.size) for item in active}

        def apply_model(executor, part, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs):
            uuids = transformer_options["uuids"]
            self._check_size(part, [sizes[uuid] for uuid in uuids])
            saved = torch.autograd.graph.save_on_cpu() if self._in_ram else nullcontext()
            normal = InferenceTensorsAsNormal() if self._as_normal else nullcontext()
            with differentiable(model, self._node), saved, normal:
                call = _Pass(part.clone().requires_grad_(), uuids)
                calls.append(call)
                described = Call.of(part, c_crossattn, kwargs, transformer_options)
                described = described._replace(text=described.text // columns_per_token(model_options))
                options = self._watch(with_copies(transformer_options), described, call, subjects)
                if control is not None:
                    options = _with_copied_skips(options)
                try:
                    executor(call.x, t, c_concat, c_crossattn, control, options, *args, **kwargs)
                except _Enough:
                    pass
            return torch.zeros_like(part)

        options = copy_nested_dicts(model_options)
        options.pop("multigpu_clones", None)
        transformer_options = options.setdefault("transformer_options", {})
        transformer_options[EXTRA_PASS] = True
        without_caches(options)
        wrappers = transformer_options.setdefault("wrappers", {}).setdefault(WrappersMP.APPLY_MODEL, {})
        wrappers.pop(COMPILE_KEY, None)  # what is compiled has no place to stop
        wrappers[f"{PREFIX}.gradient"] = [apply_model]  # the last is called last, next to the model
        with uncompiled():
            calc_cond_batch(model, [[item.cond for item in active]], x, sigma, options)

        with torch.inference_mode(False), torch.enable_grad():
            maps = {uuid: attention for call in calls for uuid, attention in call.maps().items()}
            acting = [item for item in active if item.uuid in maps or "default" not in item.cond]
            subjects.active = acting or active  # the host leaves out defaults for which others leave no room
            self._check(maps, subjects.active)
            gradients = torch.autograd.grad(subjects.loss(maps) * self._loss_scale, [call.x for call in calls])
        total = torch.zeros_like(x)
        for call, gradient in zip(calls, gradients, strict=True):
            for uuid, part in zip(call.uuids, gradient.chunk(len(call.uuids)), strict=True):
                total[(..., *views[uuid])] += part / self._loss_scale
        return total

    def _watch(self, options: dict[str, Any], described: Call, call: _Pass, subjects: Subjects) -> dict[str, Any]:
        layers = visible_layers(options, self._layers)
        waiting = set(layers)

        def observer(observation: Observation) -> None:
            call.add(observation, subjects, pool=self._family.kind != "unet")
            waiting.discard(observation.layer)
            if not waiting:
                raise _Enough

        override = replace(Override.on(options), previous=_attention_with_gradient)
        return watch({**options, OVERRIDE: override}, self._family, described, layers, observer)

    def _check_size(self, part: Tensor, expected: list[tuple[int, ...]]) -> None:
        rows, size = len(part) // len(expected), tuple(part.shape[2:])
        for images, *whole in expected:
            if (rows, *size) != (images, *whole):
                raise ValueError(
                    f"{self._node}: the model was called for {sides(size)} of a latent of {sides(whole)}, and for "
                    f"{rows} of {images} images. Nodes that sample a picture in tiles, or a batch in windows, cannot "
                    "be combined with this one."
                )

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
