"""What other nodes have put into the model, in the pass whose gradient is taken: what is left out, copied, or named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any

import comfy.ldm.modules.attention as host_attention
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...attention_hooks.override import OVERRIDE
from ..prompt_text import NEGPIP
from ..run import PREFIX

OUR_PACKAGE = __name__.rpartition(".sampling.")[0]
OUR_FOLDER = __file__.rpartition("sampling")[0].replace("\\", "/")
HOST = {"torch", "comfy", "comfy_api", "comfy_kitchen", "einops", *sys.stdlib_module_names}


def name_of(function: Callable) -> str:
    """Who wrote a function: its class or itself, and its module, as "FreeU_V2 (comfy_extras.nodes_freelunch)"."""
    while isinstance(function, partial):
        function = function.func
    written = function if hasattr(function, "__qualname__") else type(function)
    return f"{written.__qualname__.split('.')[0]} ({_short(written.__module__)})"


def _short(module: str) -> str:
    """A module without the folders that lead to its pack."""
    return module.replace("\\", "/").rpartition("custom_nodes/")[2]


def _is_foreign(module: str) -> bool:
    ours = module == OUR_PACKAGE or module.startswith(f"{OUR_PACKAGE}.")
    return not ours and module.split(".")[0] not in HOST


def columns_per_token(model_options: dict[str, Any]) -> int:
    """How many columns of a conditioning make one text token of attention."""
    return 2 if model_options.get(NEGPIP) else 1


def without_caches(model_options: dict[str, Any]) -> None:
    """Take out of a copy of a run's options what would spare a call of the model, or count it among the sampler's."""
    options = model_options["transformer_options"]
    for wrappers in options.get("wrappers", {}).values():
        for key in [key for key, functions in wrappers.items() if any(_is_cache(key, each) for each in functions)]:
            del wrappers[key]
    if _is_cache("", model_options.get("model_function_wrapper")):
        del model_options["model_function_wrapper"]


def _is_cache(key: Any, function: Any) -> bool:
    return function is not None and "cache" in f"{key} {name_of(function)}".lower()


def with_copies(options: dict[str, Any]) -> dict[str, Any]:
    """Options in which patches, which may write into what they get, write into copies, also of what autograd keeps."""
    patches = {name: [partial(_on_copies, patch) for patch in several]
               for name, several in options.get("patches", {}).items()}
    return {**options, "patches": patches}


def _on_copies(patch: Callable, *args, **kwargs) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda kept: kept):
        return patch(*(arg.clone() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)


def refusal(node: str, error: Exception, model: nn.Module, model_options: dict[str, Any]) -> ValueError | None:
    """What to tell instead of an error in the pass; None where no other node is near."""
    raisers = list(_files_of_packs(error.__traceback__))
    names = raisers[-1:] or sorted({name_of(each) for each in _additions(model_options)})
    everywhere = sorted(_changed_everywhere(model))
    if not names and not everywhere:
        return None
    said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    blamed = f"what other nodes do in the model: {', '.join(names)}" if names else "what a pack has changed in ComfyUI"
    message = f"{node}: no gradient can be taken through {blamed} ({said}). "
    if everywhere:
        message += (
            f"Changed for all models, and not by this workflow: {', '.join(everywhere)}; switch that pack off and "
            "start ComfyUI anew. "
        )
    return ValueError(message + "Leave these out, or sample without this node.")


def _files_of_packs(trace: TracebackType | None) -> Iterator[str]:
    """The files of other nodes on the way to an error, the outermost first, without the folders that lead to them."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename.replace("\\", "/")
        _, folder, rest = file.rpartition("custom_nodes/")
        if folder and not file.startswith(OUR_FOLDER):
            yield rest
        elif "comfy_extras/" in file:
            yield file.rpartition("comfy_extras/")[2]
        trace = trace.tb_next


def _additions(model_options: dict[str, Any]) -> Iterator[Callable]:
    """The functions of other nodes that a call of the model meets."""
    options = model_options.get("transformer_options", {})
    for several in options.get("patches", {}).values():
        yield from several
    for replacements in options.get("patches_replace", {}).values():
        yield from replacements.values()
    for kind in (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        for key, several in options.get("wrappers", {}).get(kind, {}).items():
            yield from () if str(key).startswith(PREFIX) else several
    for function in (options.get(OVERRIDE), model_options.get("model_function_wrapper")):
        if function is not None:
            yield function


def _changed_everywhere(model: nn.Module) -> set[str]:
    """Classes of the model's layers, and functions of the host, that some pack has changed for all models."""
    changed = {
        f"{kind.__qualname__}.forward by {name_of(kind.forward)}"
        for kind in {type(module) for module in model.modules()}
        if not _is_foreign(kind.__module__) and _is_foreign(kind.forward.__module__)
    }
    function = host_attention.optimized_attention
    if _is_foreign(function.__module__):
        changed.add(f"optimized_attention by {name_of(function)}")
    return changed
