"""Boxes that snap to what the model draws in them: the attention to a region's own words in the first steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...attention_hooks.observe import Call
from ...attention_hooks.token_maps import Capture, Wanted
from ...guidance.attention_maps import enlarge
from ...guidance.precision import widen
from ...guidance.regions import snapped
from ..conds import active_conds
from ..run import Evaluation
from .texts import Columns

SNAPS = {"off": None, "inside": False, "free": True}  # whether a box that snaps may grow
LOOKED = 0.2  # the share of the steps after which it does
STANDS_OUT = 0.0  # standard deviations above the mean attention to the words, from which a place is theirs


class Snap:
    """One region's. conds: those to whose text its prompt is joined, by their uuids."""

    def __init__(self, capture: Capture, columns: Columns, uuids: list[Any]):
        self._capture = capture
        self._columns = columns
        self._wanted = {uuid: Wanted(True, False, len(columns.prompt), columns.words) for uuid in uuids}
        self._calls: dict[int, Call] = {}  # those in progress, by the id of the call as others see it
        self._sum: Tensor | None = None  # [B, *size], on the device
        self._seen: Tensor | None = None  # the same, on its way to the CPU

    def begin(self, evaluation: Evaluation, acts: bool) -> None:
        self._capture.begin(self._wanted if acts else {}, len(evaluation.x))

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        ahead, length = call.text + self._columns.prompt.start, len(self._columns.prompt)
        own = self._calls[id(call)] = call._replace(ahead=ahead, text=length, behind=call.tokens - ahead - length)
        return self._capture.watch_forward(own, transformer_options)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        self._capture.end_forward(self._calls.pop(id(call)), transformer_options)

    def end(self, conds: list[dict[str, Any]], evaluation: Evaluation) -> None:
        """Take what the evaluation has shown, without waiting for it."""
        x = evaluation.x
        seen = widen(x).new_zeros((len(x), 1, *x.shape[2:]))
        for item in active_conds(conds, x, evaluation.cpu_sigma):
            if item.uuid in self._wanted and self._capture.called(item.uuid):
                maps = self._capture.maps(item.uuid, item.size).tokens.to(x.device).mean(dim=1, keepdim=True)
                view = (..., *item.view)
                seen[view] += item.share[view] * enlarge(maps, item.size)
        self._sum = seen[:, 0] if self._sum is None else self._sum + seen[:, 0]
        self._seen = self._sum.to("cpu", non_blocking=True)

    def cut(self, box: Tensor, grow: bool) -> tuple[Tensor, bool]:
        """The box [1 or B, *size] as it snaps to what was seen, and whether it did in some image.

        To be called once the device has been waited for.
        """
        if self._seen is None:
            return box, False
        place, found = snapped(box.expand(len(self._seen), *box.shape[1:]), self._seen, STANDS_OUT, grow)
        return place, bool(found.any())
