"""The words that must be attended to, in all the prompts of one evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention_hooks.families import Family
from ...guidance.attend_excite import losses, score_columns, subject_maps
from ...guidance.attention_losses import attended, inside_loss, overlap_loss, size_loss
from ..conds import ActiveCond
from ..prompt_text import PromptText, prompt_text, word_columns
from .losses import Term


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


class Attended(NamedTuple):
    """What one prompt's positions attend to, the mean over layers and heads."""

    cross: Tensor  # [B, (T,) h, w, tokens]
    own: Tensor | None = None  # [B, T, P, P], positions of each frame to each other; None where no loss asks for it


Maps = dict[Any, Attended]  # of each cond, by uuid


class Subjects:
    """Scores of words in the attention of several prompts. A word is where any prompt that has it says it is."""

    def __init__(
        self, active: Sequence[ActiveCond], tokens: Mapping[Any, SubjectTokens | None], phrases: int,
        terms: Sequence[Term], grid: tuple[int, int], enough: float = 1.0,
    ):
        """tokens: of the conds, by uuid; phrases: how many there are; grid: of maps of the whole latent."""
        self.phrases = phrases
        self.terms = terms
        self.grid = grid
        self.enough = enough
        self.tokens = {uuid: found for uuid, found in tokens.items() if found is not None}
        self.active = [item for item in active if item.uuid in self.tokens]
        self.needs_own = any(term.kind == "overlap" for term in terms)

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
        """The sum over images of all losses. Also keeps what it saw.

        peaks [B, phrases]: 1 where no prompt with the word acts. scores: as self.active, [B, its phrases, (T,) h, w].
        neglect [B], values [B, terms].
        """
        scores = []
        peaks: list[list[Tensor]] = [[] for _ in range(self.phrases)]
        for item in self.active:
            _, _, subjects, rivals = self.tokens[item.uuid]
            where = _where(item, tuple(maps[item.uuid].cross.shape[1:-1]))
            named = [number for number, subject in enumerate(subjects) if subject]
            scores.append(subject_maps(maps[item.uuid].cross, rivals, [subjects[number] for number in named], where))
            for number, peak in zip(named, scores[-1].flatten(2).amax(-1).unbind(1), strict=True):
                peaks[number].append(peak)
        self.scores = [part.detach() for part in scores]
        nowhere = scores[0].new_zeros(len(scores[0]))
        together = torch.stack([torch.stack(seen).amax(0) if seen else nowhere for seen in peaks], dim=1)
        together = together.masked_fill(~self.present(), 1)
        self.peaks = together.detach()
        missing = [term.words for term in self.terms if term.kind == "missing subject"]
        neglect = [losses(_pick(together, words), self.enough).detach() for words in missing]
        self.neglect = torch.stack(neglect).amax(0) if neglect else nowhere
        values = torch.stack([term.weight * self._value(term, together, scores, maps) for term in self.terms], dim=1)
        self.values = values.detach()
        return values.sum()

    def _value(self, term: Term, peaks: Tensor, scores: list[Tensor], maps: Maps) -> Tensor:
        """One loss of each image, [B]. Words that no prompt has there do not count."""
        if term.kind == "missing subject":
            return losses(_pick(peaks, term.words), self.enough)
        there = _pick(self.present(), term.words)  # [B, words]
        if term.kind == "overlap":
            cross = [self._probabilities(item, maps[item.uuid].cross) for item in self.active]
            spread = [_spread(part, maps[item.uuid].own) for item, part in zip(self.active, cross, strict=True)]
            of_words = [_pick(self._whole(parts), term.words).flatten(2) for parts in (spread, cross)]
            return overlap_loss(*(part * there[..., None] for part in of_words))
        found = _pick(self._whole(scores), term.words)
        values = (
            size_loss(found.flatten(2), term.size) if term.kind == "size"
            else inside_loss(found.flatten(2), term.cells(found.shape[2:]).expand(len(found), -1))
        )
        return (values * there).sum(1)

    def _probabilities(self, item: ActiveCond, cross: Tensor) -> Tensor:
        """The mean attention to the tokens of each phrase of a cond, where it acts.

        cross: [B, (T,) h, w, tokens]. Returns [B, its phrases, (T,) h, w].
        """
        subjects = [subject for subject in self.tokens[item.uuid].subjects if subject]
        means = [torch.stack([cross[..., column] for column in subject]).mean(0) for subject in subjects]
        return torch.stack(means, dim=1) * _where(item, tuple(cross.shape[1:-1]))[:, None]

    def _whole(self, parts: list[Tensor]) -> Tensor:
        """Maps of the conds' own words on one grid of the whole latent, the highest of all conds; 0 elsewhere.

        parts: as self.active, [B, its phrases, (T,) h, w]. Returns [B, phrases, (T,) *self.grid].
        """
        planes: list[list[Tensor]] = [[] for _ in range(self.phrases)]
        for item, part in zip(self.active, parts, strict=True):
            spread = iter(self._placed(item, part).unbind(1))
            for number, subject in enumerate(self.tokens[item.uuid].subjects):
                if subject:
                    planes[number].append(next(spread))
        empty = parts[0].new_zeros((len(parts[0]), *parts[0].shape[2:-2], *self.grid))
        return torch.stack([torch.stack(found).amax(0) if found else empty for found in planes], dim=1)

    def _placed(self, item: ActiveCond, part: Tensor) -> Tensor:
        """Maps of a cond's own area, [B, n, (T,) h, w], in the place of that area on the grid of the whole latent."""
        (top, bottom), (left, right) = (
            (view.start * cells // length, max(-(-view.stop * cells // length), 1))
            for view, cells, length in zip(item.view[-2:], self.grid, item.share.shape[-2:], strict=True)
        )
        size = (bottom - top, right - left)
        if tuple(part.shape[-2:]) != size:
            part = F.interpolate(part.flatten(1, -3), size, mode="bilinear").view(*part.shape[:-2], *size)
        return F.pad(part, (left, self.grid[1] - right, top, self.grid[0] - bottom))

    def picture(self) -> Tensor:
        """The scores last seen on one grid over the whole latent, [B, phrases, h, w] fp16.

        A clip's are the highest of all frames.
        """
        whole = self._whole([scores.float() for scores in self.scores])
        return (whole.flatten(2, -3).amax(2) if whole.ndim > 4 else whole).half()


def _pick(values: Tensor, numbers: Sequence[int]) -> Tensor:
    """values[:, numbers], without sending an index to a GPU."""
    return torch.stack([values[:, number] for number in numbers], dim=1)


def _spread(cross: Tensor, own: Tensor) -> Tensor:
    """Where the positions of each word attend, frame by frame. [B, n, (T,) h, w], [B, T, P, P] -> as cross"""
    by_frame = cross.flatten(-2).reshape(*cross.shape[:2], own.shape[1], -1).transpose(1, 2)  # [B, T, n, P]
    return attended(by_frame, own).transpose(1, 2).reshape(cross.shape)


def _where(item: ActiveCond, grid: tuple[int, ...]) -> Tensor:
    """[B, (T,) h, w]: 1 where the prompt has a part in the result, on the grid of its own area."""
    pool = F.adaptive_max_pool2d if len(grid) == 2 else F.adaptive_max_pool3d
    return (pool(item.share[(..., *item.view)], grid) > 0).float()[:, 0]
