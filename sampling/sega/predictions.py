"""The denoised predictions of the concepts: from the host's own call of the model, or in calls of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from comfy.model_management import OOM_EXCEPTION, InterruptProcessingException
from comfy.samplers import calc_cond_batch
from torch import Tensor

from ..post_cfg import name_of
from .concepts import Cond

log = logging.getLogger(__name__)
STOPS = (OOM_EXCEPTION, InterruptProcessingException)  # what the host must hear of as it is


class Predictions:
    """Those of one evaluation, by list of conds. The host hands lists on as they are, so their ids tell them apart."""

    def __init__(self, node: str):
        self._node = node
        self._apart = False  # whether each prompt is evaluated in a call of its own
        self.begin(None, [])

    def begin(self, x: Tensor | None, wanted: list[list[Cond]]) -> None:
        """Forget the last evaluation and wait for that of x, on which the `wanted` prompts are needed."""
        self._x = x
        self._wanted = {id(conds): conds for conds in wanted}
        self._known: dict[int, Tensor] = {}

    def __getitem__(self, conds: list[Cond]) -> Tensor:
        return self._known[id(conds)]

    def join(
        self, evaluate: Callable, model: Any, conds: list[list[Cond] | None], x: Tensor, sigma: Tensor,
        model_options: dict[str, Any],
    ) -> list[Tensor]:
        """The host's evaluation of all its prompts, joined by the wanted ones where it is the main one for this x.

        Calls for one prompt are other nodes' extra passes (PAG, SAG); those for another x may be context windows,
        whose results the host has yet to put together. Nodes that change attention know two prompts, the positive and
        the negative one, and may mix them: beside these the wanted ones are evaluated apart.
        """
        self._apart = self._apart or bool(attention_changes(model_options))
        if self._apart or x is not self._x or len(conds) < 2 or self._known:
            return evaluate(model, conds, x, sigma, model_options)
        given = set(map(id, conds))
        every = [*conds, *(wanted for key, wanted in self._wanted.items() if key not in given)]
        try:
            outputs = evaluate(model, every, x, sigma, model_options)
        except STOPS:
            raise
        except Exception as error:
            if len(every) == len(conds):
                raise
            self._apart = True
            log.warning("%s: the model cannot evaluate the concepts together with the prompts, so each gets a call of "
                        "its own, which takes longer (%s).", self._node, error)
            return evaluate(model, conds, x, sigma, model_options)
        self._known = {
            id(item): output for item, output in zip(every, outputs, strict=True) if id(item) in self._wanted
        }
        # The caller may change in place what it gets.
        return [
            output.clone() if id(item) in self._known else output
            for item, output in zip(conds, outputs[: len(conds)], strict=True)
        ]

    def complete(self, args: dict[str, Any]) -> None:
        """Evaluate what is still missing in the host's post-CFG function.

        In the place of the negative prompt, with which the concepts are compared: nodes that treat the positive and
        the negative prompt differently treat these alike.
        """
        missing = [conds for key, conds in self._wanted.items() if key not in self._known]
        self._x = None
        model, x, sigma, options = args["model"], args["input"], args["sigma"], args["model_options"]
        batches = [[conds] for conds in missing] if self._apart else [missing]
        for batch in filter(None, batches):
            try:
                outputs = calc_cond_batch(model, [None, *batch], x, sigma, options)[1:]
            except STOPS:
                raise
            except Exception as error:
                names = ", ".join(attention_changes(options))
                raise ValueError(
                    f"{self._node}: the model cannot evaluate a concept ({error}). " + (
                        f"Another node changes the model's attention ({names}): leave it or this node out." if names
                        else "Encode the concepts with this model's own CLIP."
                    )
                ) from error
            self._known |= {id(conds): output for conds, output in zip(batch, outputs, strict=True)}


def attention_changes(model_options: dict[str, Any]) -> list[str]:
    """The names of functions with which other nodes change or replace the model's attention."""
    options = model_options.get("transformer_options", {})
    chains = [chain for kind, chain in options.get("patches", {}).items() if kind.startswith("attn")]
    chains += [by_block.values() for by_block in options.get("patches_replace", {}).values()]
    return list(dict.fromkeys(name_of(function) for chain in chains for function in chain))
