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
from .gradient import Maps


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

    def __init__(self, active: Sequence[ActiveCond], phrases: Sequence[str], until_eot: bool):
        self.phrases = phrases
        self.active: list[ActiveCond] = []
        self.columns: dict[Any, list[tuple[int, ...]]] = {}  # of each phrase, by the uuid of the cond
        self.rivals: dict[Any, list[int]] = {}
        for item in active:
            words, length = item.cond.get(CONDITIONING_KEY), text_length(item.cond)
            columns = [phrase_columns(words, length, phrase) for phrase in phrases]
            if any(columns) and item.share.any():
                self.active.append(item)
                self.columns[item.uuid] = columns
                self.rivals[item.uuid] = text_columns(words, length, until_eot)

    def present(self) -> Tensor:
        """[phrases] bool: which of them are in a prompt that acts now."""
        return torch.tensor([any(columns) for columns in zip(*self.columns.values(), strict=True)])

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
        absent = self.scores[0].new_ones(len(self.scores[0]))
        together = torch.stack([torch.stack(seen).amax(0) if seen else absent for seen in peaks], dim=1)
        self.peaks = together.detach()
        return losses(together).sum()

    def picture(self, size: tuple[int, int]) -> Tensor:
        """The scores last seen on one grid of this size over the whole latent, [B, phrases, h, w] fp16 on the CPU."""
        height, width = self.active[0].share.shape[-2:]
        whole = torch.zeros((len(self.peaks), len(self.phrases), *size))
        for item, scores in zip(self.active, self.scores, strict=True):
            vertical, horizontal = item.view
            rows = slice(vertical.start * size[0] // height, max(-(-vertical.stop * size[0] // height), 1))
            cols = slice(horizontal.start * size[1] // width, max(-(-horizontal.stop * size[1] // width), 1))
            present = [number for number, subject in enumerate(self.columns[item.uuid]) if subject]
            view = whole[:, present, rows, cols]
            part = F.interpolate(scores.float().cpu(), view.shape[-2:], mode="bilinear")
            whole[:, present, rows, cols] = torch.maximum(view, part)
        return whole.half()


def _where(item: ActiveCond, grid: tuple[int, int]) -> Tensor:
    """[B, h, w]: 1 where the prompt has a part in the result, on the grid of its own area."""
    return (F.adaptive_max_pool2d(item.share[(..., *item.view)], grid) > 0).float()[:, 0]
