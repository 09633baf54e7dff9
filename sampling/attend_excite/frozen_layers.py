"""Gradients through a model whose weights stay exactly as the host keeps them.

Weights that were loaded in inference mode cannot be saved by autograd. Others are cast, patched or brought from the
CPU at every call, and the buffers they arrive in are used again. So autograd is not shown the weights: a layer runs
as the host runs it, and its weight is asked for once more when the gradient comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from comfy.model_base import BaseModel
from comfy.ops import CastWeightBiasOp, cast_bias_weight, uncast_bias_weight
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)


def as_normal(tensor: Tensor) -> Tensor:
    """The same memory as a tensor that autograd accepts, though it was made in inference mode."""
    normal = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return normal.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


class _Layer(torch.autograd.Function):
    """One layer with a weight. Only the gradient by its input exists."""

    @staticmethod
    def forward(ctx, x: Tensor, module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.module = module
        ctx.shape = x.shape
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            ctx.save_for_backward(x)
        with torch.inference_mode():
            y = forward(x)
        return as_normal(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        module = ctx.module
        with torch.inference_mode():
            weight, bias, stream = cast_bias_weight(module, gradient, offloadable=True)
            if isinstance(module, nn.Linear):
                result = gradient @ weight
            elif isinstance(module, nn.Conv2d):
                result = torch.nn.grad.conv2d_input(
                    ctx.shape, weight, gradient, module.stride, module.padding, module.dilation, module.groups
                )
            else:
                result = _norm_gradient(module, ctx.saved_tensors[0], weight, bias, gradient)
            uncast_bias_weight(module, weight, bias, stream)
        return as_normal(result), None, None


def _norm_gradient(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().requires_grad_()
        weight, bias = weight.clone(), bias.clone()
        if isinstance(module, nn.GroupNorm):
            y = F.group_norm(x, module.num_groups, weight, bias, module.eps)
        else:
            y = F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)
        return torch.autograd.grad(y, x, gradient)[0]


@contextmanager
def differentiable(model: BaseModel, node: str) -> Iterator[None]:
    """Grad mode in which the model's output is differentiable by its input, though never by its weights.

    Raises ValueError where another node has taken over a layer, so that its weight is not the whole of it.
    """
    layers = [module for module in model.diffusion_model.modules() if isinstance(module, LAYERS)]
    if any("forward" in vars(layer) for layer in layers):
        raise ValueError(
            f"{node}: another node has replaced the forward of some layers, as LoRA in bypass mode does; no gradient "
            "can be taken through these. Load the LoRA without bypass, or leave that node out."
        )
    try:
        for layer in layers:
            layer.forward = partial(_call, layer, layer.forward)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _call(module: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return _Layer.apply(x, module, forward)


def check_differentiable(model: BaseModel, node: str) -> None:
    """Raise ValueError, naming the node, the model and the obstacle, unless `differentiable` can handle its layers."""
    for name, module in model.diffusion_model.named_modules():
        for weight in module.parameters(recurse=False):
            known = isinstance(module, LAYERS) and isinstance(module, CastWeightBiasOp)
            if known and type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point():
                continue
            raise ValueError(
                f"{node}: needs gradients, which this {type(model).__name__} model does not give: {name} is a "
                f"{type(module).__name__} with {type(weight).__name__} weights in {weight.dtype}. Load the model with "
                "weights that are not quantised (fp32, fp16, bf16 or plain fp8)."
            )
