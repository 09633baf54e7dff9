"""The words that must be attended to, in all the prompts of one evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention_hooks.families import Family
from ...guidance.attend_excite import losses, score_columns, subject_maps
from ..conds import ActiveCond
from ..prompt_text import PromptText, prompt_text, word_columns

Maps = dict[Any, Tensor]  # attention of each cond, by uuid: [B, (T,) h, w, tokens], the mean over layers and heads


class SubjectTokens(NamedTuple):
    """The subjects in the text of one cond, as columns of its attention."""

    length: int  # of its text
    compared: int  # the first so many columns, among which attention is compared
    subjects: tuple[tuple[int, ...], ...]  # the columns of each phrase; () where the prompt lacks it
    rivals: list[int]  # the columns that compete


def subject_tokens(
    cond: dict[str, Any], phrases: Sequence[str], family: Family, per_token: int = 1
) -> SubjectTokens | None:
    """None where the prompt has none of the phrases. per_token: how many of its columns make one of attention."""
    text = prompt_text(cond, family)
    if text is None:
        return None
    text = text._replace(length=text.length // per_token, compared=text.compared // per_token)
    subjects = tuple(text.find(phrase) for phrase in phrases)
    if not any(subjects):
        return None
    rivals = _in_chunks(text, family) if family.chunk else list(word_columns(cond, text))
    return SubjectTokens(text.length, text.compared, subjects, rivals)


def _in_chunks(text: PromptText, family: Family) -> list[int]:
    """The columns that compete in a text of chunks with a start token each.

    Where words are known, the end token of each chunk is the one after its last word. Otherwise none is left out.
    """
    columns = [] if text.words is None else [column for word in text.words.words for column in word.tokens]
    last = [0] * -(-text.compared // family.chunk)
    for column in columns:
        if column < text.compared:
            last[column // family.chunk] = column % family.chunk
    until_eot = family.until_eot and text.words is not None
    found = score_columns([column + 1 for column in last], until_eot=until_eot, size=family.chunk)
    return [column for column in found if column < text.compared]


class Subjects:
    """Scores of words in the attention of several prompts. A word is where any prompt that has it says it is."""

    def __init__(self, active: Sequence[ActiveCond], tokens: Mapping[Any, SubjectTokens | None], phrases: int):
        """tokens: of the conds, by uuid. phrases: how many there are."""
        self.phrases = phrases
        self.tokens = {uuid: found for uuid, found in tokens.items() if found is not None}
        self.active = [item for item in active if item.uuid in self.tokens]

    def present(self) -> Tensor:
        """[B, phrases] bool: which of them are in a prompt that has a part in the image."""
        shown = [item.share.flatten(1).any(1) for item in self.active]  # a mask may leave nothing of a prompt
        absent = torch.zeros_like(shown[0])
        return torch.stack([
            torch.stack([acts if self.tokens[item.uuid].subjects[number] else absent for item, acts in
                         zip(self.active, shown, strict=True)]).any(0)
            for number in range(self.phrases)
        ], dim=1)

    def loss(self, maps: Maps) -> Tensor:
        """The sum over images of how neglected the most neglected word is. Also keeps what it saw.

        peaks [B, phrases]: 1 where no prompt with the word acts. scores: as self.active, [B, its phrases, (T,) h, w].
        """
        peaks: list[list[Tensor]] = [[] for _ in range(self.phrases)]
        self.scores = []
        for item in self.active:
            attention, (*_, subjects, rivals) = maps[item.uuid], self.tokens[item.uuid]
            where = _where(item, tuple(attention.shape[1:-1]))
            scores = subject_maps(attention, rivals, [subject for subject in subjects if subject], where)
            self.scores.append(scores.detach())
            found = iter(scores.flatten(2).amax(-1).unbind(1))
            for number, subject in enumerate(subjects):
                if subject:
                    peaks[number].append(next(found))
        nowhere = self.scores[0].new_zeros(len(self.scores[0]))
        together = torch.stack([torch.stack(seen).amax(0) if seen else nowhere for seen in peaks], dim=1)
        together = together.masked_fill(~self.present(), 1)
        self.peaks = together.detach()
        return losses(together).sum()

    def picture(self, size: tuple[int, int]) -> Tensor:
        """The scores last seen on one grid of this size over the whole latent, [B, phrases, h, w] fp16.

        A clip's are the highest of all frames.
        """
        height, width = self.active[0].share.shape[-2:]
        whole = self.peaks.new_zeros((*self.peaks.shape, *size), dtype=torch.float32)
        for item, scores in zip(self.active, self.scores, strict=True):
            *_, vertical, horizontal = item.view
            scores = scores.flatten(2, -3).amax(2) if scores.ndim > 4 else scores
            rows = slice(vertical.start * size[0] // height, max(-(-vertical.stop * size[0] // height), 1))
            cols = slice(horizontal.start * size[1] // width, max(-(-horizontal.stop * size[1] // width), 1))
            parts = iter(F.interpolate(scores.float(), whole[..., rows, cols].shape[-2:], mode="bilinear").unbind(1))
            for number, subject in enumerate(self.tokens[item.uuid].subjects):
                if subject:
                    view = whole[:, number, rows, cols]
                    torch.maximum(view, next(parts), out=view)
        return whole.half()


def _where(item: ActiveCond, grid: tuple[int, ...]) -> Tensor:
    """[B, (T,) h, w]: 1 where the prompt has a part in the result, on the grid of its own area."""
    pool = F.adaptive_max_pool2d if len(grid) == 2 else F.adaptive_max_pool3d
    return (pool(item.share[(..., *item.view)], grid) > 0).float()[:, 0]
