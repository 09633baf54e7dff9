"""The words that must be attended to, in all the prompts of one evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...guidance.attend_excite import CHUNK, losses, score_columns, subject_maps
from ...words.phrases import phrase_columns
from ...words.prompt import CONDITIONING_KEY, PromptWords
from ..conds import ActiveCond, text_length

Maps = dict[Any, Tensor]  # attention of each cond, by uuid: [B, h, w, tokens], the mean over layers and heads


def text_columns(words: PromptWords | None, length: int, until_eot: bool) -> list[int]:
    """The token columns that compete for attention in a conditioning of `length` tokens.

    Where words are known, the end token of each chunk is the one after its last word. Otherwise none is left out.
    """
    chunks = -(-length // CHUNK)
    if words is None:
        eots, until_eot = [CHUNK - 1] * chunks, False
    else:
        last = [0] * chunks
        for column in (column for word in words.words for column in word.tokens):
            last[column // CHUNK] = column % CHUNK
        eots = [column + 1 for column in last]
    return [column for column in score_columns(eots, until_eot=until_eot) if column < length]


class Subjects:
    """Scores of words in the attention of several prompts. A word is where any prompt that has it says it is."""

    def __init__(self, active: Sequence[ActiveCond], phrases: Sequence[str], until_eot: bool, paired: bool = False):
        """paired: whether each token has two columns of text, but one of attention, as NegPip makes them."""
        self.phrases = phrases
        self.paired = paired
        self.active: list[ActiveCond] = []
        self.lengths: dict[Any, int] = {}  # columns of attention, by the uuid of the cond
        self.columns: dict[Any, list[tuple[int, ...]]] = {}  # of each phrase
        self.rivals: dict[Any, list[int]] = {}
        for item in active:
            words, length = item.cond.get(CONDITIONING_KEY), text_length(item.cond) or 0
            length = length // 2 if paired else length
            columns = [phrase_columns(words, length, phrase) for phrase in phrases]
            if any(columns):
                self.active.append(item)
                self.lengths[item.uuid] = length
                self.columns[item.uuid] = columns
                self.rivals[item.uuid] = text_columns(words, length, until_eot)

    def present(self) -> Tensor:
        """[B, phrases] bool: which of them are in a prompt that has a part in the image."""
        shown = [item.share.flatten(1).any(1) for item in self.active]  # a mask may leave nothing of a prompt
        absent = torch.zeros_like(shown[0])
        return torch.stack([
            torch.stack([acts if columns[number] else absent for acts, columns in
                         zip(shown, self.columns.values(), strict=True)]).any(0)
            for number in range(len(self.phrases))
        ], dim=1)

    def loss(self, maps: Maps) -> Tensor:
        """The sum over images of how neglected the most neglected word is. Also keeps what it saw.

        peaks [B, phrases]: 1 where no prompt with the word acts. scores: as self.active, [B, its phrases, h, w].
        """
        peaks: list[list[Tensor]] = [[] for _ in self.phrases]
        self.scores = []
        for item in self.active:
            uuid = item.uuid
            columns = self.columns[uuid]
            scores = subject_maps(
                maps[uuid], self.rivals[uuid], [subject for subject in columns if subject],
                _where(item, tuple(maps[uuid].shape[1:3])),
            )
            self.scores.append(scores.detach())
            found = iter(scores.amax((-2, -1)).unbind(1))
            for number, subject in enumerate(columns):
                if subject:
                    peaks[number].append(next(found))
        nowhere = self.scores[0].new_zeros(len(self.scores[0]))
        together = torch.stack([torch.stack(seen).amax(0) if seen else nowhere for seen in peaks], dim=1)
        together = together.masked_fill(~self.present(), 1)
        self.peaks = together.detach()
        return losses(together).sum()

    def picture(self, size: tuple[int, int]) -> Tensor:
        """The scores last seen on one grid of this size over the whole latent, [B, phrases, h, w] fp16."""
        height, width = self.active[0].share.shape[-2:]
        whole = self.peaks.new_zeros((*self.peaks.shape, *size), dtype=torch.float32)
        for item, scores in zip(self.active, self.scores, strict=True):
            vertical, horizontal = item.view
            rows = slice(vertical.start * size[0] // height, max(-(-vertical.stop * size[0] // height), 1))
            cols = slice(horizontal.start * size[1] // width, max(-(-horizontal.stop * size[1] // width), 1))
            parts = iter(F.interpolate(scores.float(), whole[..., rows, cols].shape[-2:], mode="bilinear").unbind(1))
            for number, subject in enumerate(self.columns[item.uuid]):
                if subject:
                    view = whole[:, number, rows, cols]
                    torch.maximum(view, next(parts), out=view)
        return whole.half()


def _where(item: ActiveCond, grid: tuple[int, int]) -> Tensor:
    """[B, h, w]: 1 where the prompt has a part in the result, on the grid of its own area."""
    return (F.adaptive_max_pool2d(item.share[(..., *item.view)], grid) > 0).float()[:, 0]
