"""Where a concept's own attention sees its words, to confine an edit to them (LEDITS++)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ...attention_hooks.families import Family, layers_at, model_family, model_layers
from ...attention_hooks.layouts import Grid, Layer
from ...attention_hooks.observe import Observation
from ...attention_hooks.token_maps import Capture, Wanted
from ...guidance.attention_maps import enlarge, to_grid
from ...guidance.precision import widen
from ...guidance.sega import strongest
from ...words.phrases import check_phrases
from ..conds import active_conds
from ..prompt_text import prompt_text
from .concepts import Concept, Cond

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


class ConceptWords(Capture):
    """Gathers, for each concept that is confined to words, the attention of its own prompt to them."""

    def __init__(self, node: str, family: Family, layers: list[Layer]):
        super().__init__(node, family, layers, layers[0].downsample, "none")

    def begin_concepts(self, prompts: list[tuple[Concept, list[Cond]]], batch: int) -> None:
        """Forget the last evaluation and gather for these concepts' conds, for a batch of `batch` images."""
        wanted = {}
        for concept, conds in prompts:
            for cond in conds:
                text = prompt_text(cond, self._family)
                columns = {column for phrase in concept.confine_to for column in text.find(phrase)} if text else None
                if text and columns:
                    wanted[cond["uuid"]] = Wanted(True, False, text.length, tuple(sorted(columns)), text.compared)
        self.begin(wanted, batch)

    def mask(self, concept: Concept, conds: list[Cond], x: Tensor, sigma: Tensor) -> Tensor:
        """[B, 1, *size]: 1 where the concept's attention to its words is strongest."""
        mask = widen(x).new_zeros((x.shape[0], 1, *x.shape[2:]))
        for item in active_conds(conds, x, sigma):
            if item.uuid in self._wanted and self.called(item.uuid):
                seen = self.maps(item.uuid, item.size).tokens.to(x.device)
                view = (..., *item.view)
                mask[view] += item.share[view] * enlarge(strongest(seen, concept.edit.threshold), item.size)
        return mask

    def _layer_maps(self, seen: Observation, rows: slice, wanted: Wanted, grid: Grid) -> tuple[Tensor, None]:
        """The attention to the columns, summed."""
        words = self._words(seen.cross_attention.select(rows), wanted)  # [B, P, N]
        return to_grid(words.sum(dim=-1, keepdim=True), seen.grid, grid), None


def word_layers(model: ModelPatcher, concepts: tuple[Concept, ...], node: str) -> list[Layer]:
    """The layers that LEDITS++ reads: at 1/4 of the latent's size, on the way down and up.

    [] where no concept is confined to words. Raises ValueError for words that a concept's prompt
    lacks, and for a model whose attention cannot be read.
    """
    confined = [concept for concept in concepts if concept.confine_to]
    if not confined:
        return []
    for concept in confined:
        check_phrases(concept.conditioning, list(concept.confine_to), node)
    downsample, layers = layers_at(model_family(model, node), model_layers(model, node), None, node)
    layers = [layer for layer in layers if layer.downsample == downsample]
    return [layer for layer in layers if layer.block[0] != "middle"] or layers
