"""What the host passes on unchecked: numbers and choices that come over links, constants where links belong."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_api.latest import io
from torch import Tensor

from ..sampling.attend_excite.losses import AttentionLoss
from ..sampling.attention_record import AttentionRecord
from ..sampling.meter.record import MeterRecord
from ..sampling.region_record import RegionRecord
from ..sampling.regional.region import Region
from ..sampling.sega.concepts import Concept
from .sockets import AttentionTrace, Concepts, Losses, Meter, RegionalPrompts, Regions

HALVES = re.compile("[\ud800-\udfff]")  # JSON can hold them; the host's log and tokenizers break on them


def _is_conditioning(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, (list, tuple)) and len(entry) == 2
        and isinstance(entry[0], (Tensor, type(None))) and isinstance(entry[1], dict)
        for entry in value
    )


def _is_latent(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("samples"), (Tensor, NestedTensor))


SOCKETS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    io.Model.io_type: ("a model", lambda value: isinstance(value, ModelPatcher)),
    io.Clip.io_type: ("a text encoder", lambda value: value is None or hasattr(value, "tokenize")),
    io.Conditioning.io_type: ("a conditioning", _is_conditioning),
    io.Latent.io_type: ("a latent", _is_latent),
    io.Image.io_type: ("an image", lambda value: isinstance(value, Tensor) and value.ndim == 4),
    io.Mask.io_type: ("a mask", lambda value: isinstance(value, Tensor) and value.ndim >= 2),
    Regions.io_type: ("what S-CFG or Regional Prompts records", lambda value: isinstance(value, RegionRecord)),
    Concepts.io_type: (
        "SEGA's concepts",
        lambda value: isinstance(value, tuple) and all(isinstance(concept, Concept) for concept in value),
    ),
    RegionalPrompts.io_type: (
        "regions", lambda value: isinstance(value, tuple) and all(isinstance(region, Region) for region in value),
    ),
    Losses.io_type: (
        "losses of Attention Loss",
        lambda value: isinstance(value, tuple) and all(isinstance(loss, AttentionLoss) for loss in value),
    ),
    Meter.io_type: ("what Guidance Meter records", lambda value: isinstance(value, MeterRecord)),
    AttentionTrace.io_type: ("what a node records of attention", lambda value: isinstance(value, AttentionRecord)),
}


def complaint(item: Any, value: Any) -> str | None:
    """What is wrong with a value for this input; None where nothing is. NaN is outside of every range."""
    if isinstance(item, (io.Float.Input, io.Int.Input)):
        kinds = int if isinstance(item, io.Int.Input) else (int, float)
        if not isinstance(value, kinds) or not item.min <= value <= item.max:
            return f"{item.id} is {value}, not a number from {item.min} to {item.max}"
    elif isinstance(item, io.Combo.Input):
        if value not in item.options:
            return f"{item.id} is {value!r}, not one of {', '.join(item.options)}"
    elif isinstance(item, io.String.Input):
        if not isinstance(value, str):
            return f"{item.id} is a {type(value).__name__}, not text"
        if HALVES.search(value):
            return f"{item.id} holds half a character, so it is not text"
    elif item.io_type in SOCKETS:
        name, fits = SOCKETS[item.io_type]
        if not fits(value) and not (item.optional and value is None):
            return f"{item.id} is a {type(value).__name__}, not {name}"
    return None


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """An `execute` that raises ValueError, naming node and input, for values that its schema does not allow."""
    signature = inspect.signature(execute)

    @wraps(execute)
    def checking(cls, *args, **kwargs):
        given = signature.bind(cls, *args, **kwargs).arguments
        schema = cls.SCHEMA or cls.GET_SCHEMA()  # the host builds it at start
        for item in schema.inputs:
            found = complaint(item, given[item.id]) if item.id in given else None
            if found:
                raise ValueError(f"{schema.display_name}: {found}.")
        return execute(cls, *args, **kwargs)

    return checking


@contextmanager
def naming(node: str) -> Iterator[None]:
    """A ValueError inside is raised with the node's name before it, as a whole sentence."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise ValueError(f"{node}: {text}" + ("" if text.endswith((".", "?")) else ".")) from error
