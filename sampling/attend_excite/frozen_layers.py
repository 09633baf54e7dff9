"""Gradients through a model whose weights stay exactly as the host keeps them.

Weights that were loaded in inference mode cannot be saved by autograd. Others are cast, patched or brought from the
CPU at every call, and the buffers they arrive in are used again. So autograd is not shown the weights: a layer runs
as the host runs it, and its weight is asked for once more when the gradient comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules import mmdit
from comfy.model_base import BaseModel
from comfy.model_management import cast_to
from comfy.ops import CastWeightBiasOp, cast_bias_weight, uncast_bias_weight
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from .neighbours import name_of

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, mmdit.RMSNorm)
LAYERS = (nn.Linear, nn.Conv2d, *NORMS)
NAMED = 3  # layers in an error


def as_normal(tensor: Tensor) -> Tensor:
    """The same memory as a tensor that autograd accepts, though it was made in inference mode."""
    normal = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return normal.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


class InferenceTensorsAsNormal(TorchFunctionMode):
    """Shows every operation normal tensors where it was given inference tensors, which autograd would refuse."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_inference_mode_enabled():
            args, kwargs = tree_map_only(
                Tensor, lambda tensor: as_normal(tensor) if tensor.is_inference() else tensor, (args, kwargs)
            )
        return func(*args, **kwargs)


class _Layer(torch.autograd.Function):
    """One layer with a weight. Only the gradient by its input exists."""

    @staticmethod
    def forward(ctx, x: Tensor, module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.module = module
        ctx.shape = x.shape
        if isinstance(module, NORMS):
            ctx.save_for_backward(x)
        with torch.inference_mode():
            y = forward(x)
        return as_normal(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        module = ctx.module
        with torch.inference_mode(), _weights(module, gradient) as (weight, bias):
            if isinstance(module, nn.Linear):
                result = gradient @ weight
            elif isinstance(module, nn.Conv2d):
                result = torch.nn.grad.conv2d_input(
                    ctx.shape, weight, gradient, module.stride, module.padding, module.dilation, module.groups
                )
            else:
                result = _norm_gradient(module, ctx.saved_tensors[0], weight, bias, gradient)
        return as_normal(result), None, None


@contextmanager
def _weights(module: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The weight and bias that a layer computes with, for an input such as `like`."""
    if isinstance(module, mmdit.RMSNorm):  # brings its weight along itself
        yield cast_to(module.weight, like.dtype, like.device), None
        return
    weight, bias, stream = cast_bias_weight(module, like, offloadable=True)
    yield weight, bias
    uncast_bias_weight(module, weight, bias, stream)


def _norm_gradient(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None, gradient: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().requires_grad_()
        weight, bias = weight.clone(), None if bias is None else bias.clone()
        if isinstance(module, nn.GroupNorm):
            y = F.group_norm(x, module.num_groups, weight, bias, module.eps)
        elif isinstance(module, nn.LayerNorm):
            y = F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)
        else:
            y = F.rms_norm(x, weight.shape, weight, module.eps)
        return torch.autograd.grad(y, x, gradient)[0]


def _has_weight(module: nn.Module) -> bool:
    return isinstance(module, LAYERS) and module.weight is not None


def _is_replaced(layer: nn.Module) -> bool:
    """Whether a layer's forward is another one than its class's, which the host may put back as the layer's own."""
    own = vars(layer).get("forward")
    return own is not None and getattr(own, "__func__", None) is not type(layer).forward


@contextmanager
def differentiable(model: BaseModel, node: str) -> Iterator[None]:
    """Grad mode in which the model's output is differentiable by its input, though never by its weights.

    Raises ValueError where another node has taken over a layer, so that its weight is not the whole of it.
    """
    layers = {name: module for name, module in model.diffusion_model.named_modules() if _has_weight(module)}
    replaced = {name: layer for name, layer in layers.items() if _is_replaced(layer)}
    if replaced:
        raise ValueError(_replaced_message(model, node, replaced))
    blocks = [module for module in model.diffusion_model.modules() if isinstance(module, mmdit.JointBlock)]
    before = {module: vars(module).get("forward") for module in (*layers.values(), *blocks)}
    try:
        for layer in layers.values():
            layer.forward = partial(_call, layer, layer.forward)
        for block in blocks:  # one that another node calls would be computed once more, when layers are as they were
            block.forward = partial(block.forward, use_checkpoint=False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, forward in before.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


def _call(module: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return _Layer.apply(x, module, forward)


def _replaced_message(model: BaseModel, node: str, replaced: dict[str, nn.Module]) -> str:
    patcher = model.current_patcher
    patched = any(f"diffusion_model.{name}.forward" in patcher.object_patches for name in replaced)
    culprits = ", ".join(sorted({name_of(layer.forward) for layer in replaced.values()}))
    names = ", ".join(list(replaced)[:NAMED]) + (f" and {len(replaced) - NAMED} more" if len(replaced) > NAMED else "")
    way_out = "Load the LoRA without bypass, or leave that node out." if patched or patcher.injections else (
        "Nothing in this workflow does so: it was left behind by another one, or by a pack that changes all models. "
        "Unload the models, or start ComfyUI anew without that pack."
    )
    return (
        f"{node}: another node has replaced the forward of some layers, as LoRA in bypass mode does ({culprits}: "
        f"{names}); no gradient can be taken through these. {way_out}"
    )


def check_differentiable(model: BaseModel, node: str) -> None:
    """Raise ValueError, naming the node, the model and the obstacle, unless `differentiable` can handle its layers."""
    for name, module in model.diffusion_model.named_modules():
        known = isinstance(module, LAYERS) or not isinstance(module, (CastWeightBiasOp, nn.Linear, nn.Conv2d))
        castable = isinstance(module, (CastWeightBiasOp, mmdit.RMSNorm)) or not isinstance(module, LAYERS)
        for weight in module.parameters(recurse=False):
            plain = type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point()
            if known and castable and plain:
                continue
            raise ValueError(
                f"{node}: needs gradients, which this {type(model).__name__} model does not give: {name} is a "
                f"{type(module).__name__} with {type(weight).__name__} weights in {weight.dtype}. Load the model with "
                "weights that are not quantised (fp32, fp16, bf16 or plain fp8)."
            )
