"""Where the model sees words while it samples: their regions in every prompt, as S-CFG divides the latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..attention_hooks.families import layers_at, model_family, model_layers
from ..attention_hooks.observe import Call
from ..attention_hooks.token_maps import Capture, Wanted
from ..guidance.attention_maps import enlarge
from ..guidance.precision import widen
from ..guidance.scfg import assign_tokens
from ..guidance.smoothing import smooth
from ..words.phrases import check_phrases
from .conds import active_conds
from .prompt_text import prompt_text, refuse_shared_words, word_columns
from .run import Evaluation

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider


def check_readable(model: ModelPatcher, node: str, downsample: int | None) -> None:
    """Raise ValueError for a model whose attention cannot be read, or that lacks this grid."""
    layers_at(model_family(model, node), model_layers(model, node), downsample, node)


class WordRegions:
    """The regions of phrases in one run.

    Raises ValueError, naming the node, for phrases that the prompts lack, and as check_readable does.
    """

    def __init__(self, node: str, guider: CFGGuider, phrases: Sequence[str], downsample: int | None):
        self._node = node
        self._phrases = list(phrases)
        conds = [cond for name, listed in guider.conds.items() if name != "negative" for cond in listed]
        check_phrases([(cond.get("cross_attn"), cond) for cond in conds], self._phrases, node)
        model = guider.model_patcher
        self._family = model_family(model, node)
        finest, layers = layers_at(self._family, model_layers(model, node), downsample, node)
        self._capture = Capture(node, self._family, layers, finest, "as released")
        self._wanted: dict[Any, Wanted] = {}  # by the uuid of the cond, as is
        self._owned: dict[Any, list[list[int]]] = {}  # the maps of each phrase, by their place among the cond's
        self._largest: Tensor | None = None  # [phrases], the most positions that each ever had, on the device

    def begin_run(self, guider: CFGGuider) -> None:
        """Find the phrases in every processed prompt but the negative one. ValueError where two share a word."""
        for cond in (cond for name, listed in guider.conds.items() if name != "negative" for cond in listed):
            text = prompt_text(cond, self._family)
            found = [text.find(phrase) for phrase in self._phrases] if text is not None else []
            if text is None or not any(found):
                continue
            refuse_shared_words(self._node, self._phrases, found)
            read = None  # in a UNet padding takes part in the division, as in the paper
            if self._family.kind != "unet":
                read = tuple(sorted({*word_columns(cond, text), *(column for columns in found for column in columns)}))
            self._wanted[cond["uuid"]] = Wanted(True, False, text.length, read, text.compared)
            self._owned[cond["uuid"]] = [
                list(columns) if read is None else [read.index(column) for column in columns] for columns in found
            ]

    def begin(self, evaluation: Evaluation, reads: bool = True) -> None:
        """Gather anew for this evaluation, if it `reads` attention."""
        self._evaluation = evaluation
        self._capture.begin(self._wanted if reads else {}, evaluation.x.shape[0])

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return self._capture.watch_forward(call, transformer_options)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        self._capture.end_forward(call, transformer_options)

    def at(self, conds: list[dict[str, Any]], x: Tensor) -> Tensor:
        """How far each position belongs to each phrase: [B, phrases, *size] in 0..1, with the soft edge of S-CFG.

        A position belongs to the strongest token of each prompt that acts there, in the prompt's share.
        """
        regions = widen(x).new_zeros((x.shape[0], len(self._phrases), *x.shape[2:]))
        for item in active_conds(conds, x, self._evaluation.cpu_sigma):
            if item.uuid not in self._wanted or ("default" in item.cond and not self._capture.called(item.uuid)):
                continue
            owner = assign_tokens(self._capture.maps(item.uuid, item.size).tokens.to(x.device))
            owned = [sum((owner == place for place in places), torch.zeros_like(owner))
                     for places in self._owned[item.uuid]]
            view = (..., *item.view)
            regions[view] += item.share[view] * enlarge(torch.cat(owned, dim=1), item.size)
        sizes = regions.flatten(2).sum(dim=-1).amax(dim=0)
        self._largest = sizes if self._largest is None else torch.maximum(self._largest, sizes)
        return smooth(regions)

    def unseen(self) -> list[str]:
        """The phrases that never had a place, once the run has ended."""
        if self._largest is None:
            return []
        return [phrase for phrase, size in zip(self._phrases, self._largest.tolist(), strict=True) if not size]
