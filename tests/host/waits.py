"""Count what would make a GPU wait for Python, where there is none: the calls of tensors that hand values to Python."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from paths import ROOT, TESTS
from torch import Tensor
from torch.overrides import TorchFunctionMode

METHODS = ("item", "tolist", "cpu", "numpy", "nonzero", "unique", "masked_select",
           "__float__", "__int__", "__bool__", "__index__", "__contains__")
FUNCTIONS = ("nonzero", "unique", "masked_select")
TORCH = Path(torch.__file__).parent


def _caller() -> str | None:
    """The nearest frame outside of torch and this file, as "file:line", where it is one of the pack."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / ".dev") and path != Path(__file__):
            return None if path.is_relative_to(TESTS) else f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        if path != Path(__file__) and not path.is_relative_to(TORCH):
            return None
        frame = frame.f_back
    return None


def _picks_by_value(index) -> bool:
    """Whether an index is one whose result has a size that only the values tell."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in parts)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the waits of the pack's own files by "file:line" while it is open.

    A wait within another counts once. Copies from the CPU to the device are not seen here.
    """
    waits: Counter[str] = Counter()
    inside = False

    def counting(original: Callable, applies: Callable[..., bool] = lambda *args, **kwargs: True) -> Callable:
        def call(*args, **kwargs):
            nonlocal inside
            if inside or not applies(*args, **kwargs):
                return original(*args, **kwargs)
            place = _caller()
            waits.update([place] if place else [])
            inside = True
            try:
                return original(*args, **kwargs)
            finally:
                inside = False

        return call

    def to_cpu(tensor, *args, non_blocking=False, **kwargs) -> bool:
        return not non_blocking and "cpu" in (*args, *kwargs.values())

    def by_values(tensor, index, *value) -> bool:
        return _picks_by_value(index)

    def one_argument(*args) -> bool:
        return len(args) == 1

    replaced = [(Tensor, name, counting(getattr(Tensor, name))) for name in METHODS]
    replaced += [(torch, name, counting(getattr(torch, name))) for name in FUNCTIONS]
    replaced += [
        (Tensor, "to", counting(Tensor.to, to_cpu)),
        (torch, "where", counting(torch.where, one_argument)),
    ]
    indexed = counting(lambda func, *args, **kwargs: func(*args, **kwargs), lambda func, *args: by_values(*args))

    class Indexing(TorchFunctionMode):
        """Replaced in the class, __getitem__ would leave tensors sequences for good: torch.tensor([tensor]) fails."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            return indexed(func, *args, **kwargs) if func is Tensor.__getitem__ else func(*args, **kwargs)

    with mock.patch.multiple(Tensor, **{name: call for owner, name, call in replaced if owner is Tensor}), \
            mock.patch.multiple(torch, **{name: call for owner, name, call in replaced if owner is torch}), Indexing():
        yield waits


def per_evaluation(model) -> tuple[object, list[Counter[str]]]:
    """A clone of `model`, and a list that gets the waits of each of its evaluations, guidance included."""
    found: list[Counter[str]] = []

    def predict_noise(executor, *args, **kwargs):
        with counted() as waits:
            result = executor(*args, **kwargs)
        found.append(waits)
        return result

    model = model.clone()
    # Outside of the pack's own wrappers: those of a key run in the order in which the keys were first seen.
    kind = "predict_noise"
    wrappers = model.wrappers.setdefault(kind, {})
    model.wrappers[kind] = {"test.waits": [predict_noise], **wrappers}
    return model, found
