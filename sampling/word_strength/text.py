"""Words that count less, in the text itself: whatever reads the conditioning follows, on any model and backend.

    c' = c - (1 - w) (c - c_without),    0 <= w < 1,

c_without being the prompt with a filler in the place of each token of the words, so that all others keep their column.
Tokens that follow a word carry it too; taken out of the text, it is gone from them as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...words.encoders import UnknownWords
from ...words.filler import without_words
from ...words.prompt import CONDITIONING_KEY, PromptWords

if TYPE_CHECKING:
    from comfy.sd import CLIP

WEAKENED_KEY = "semantic_guidance_weakened"
ALIKE = 0.02  # relative distance of two encodings of one prompt by one text encoder, on any device


class Text(NamedTuple):
    """An entry of a conditioning, as the host has it."""

    columns: Tensor  # [1, tokens, width]
    extra: dict[str, Any]

    def same(self, columns: Tensor) -> bool:
        """Whether it was encoded to these columns, behind which others may follow (ConditioningConcat)."""
        columns = columns[:, : self.columns.shape[1]].to(self.columns)
        return columns.shape == self.columns.shape and bool((columns - self.columns).norm() <= ALIKE * columns.norm())


class Weakened(NamedTuple):
    """What earlier nodes have taken out of a prompt."""

    gone: tuple[str, ...]  # phrases of strength 0
    columns: Tensor  # of the prompt without them, [1, tokens, width]


class TextChange(NamedTuple):
    """A prompt with and without words."""

    whole: Text
    without: Text

    def read_as_numbers(self) -> list[str]:
        """What differs that is no value but the number of a token: the model makes its own text of these."""
        both = _shared(self.whole.extra, self.without.extra)
        return [key for key, one, other in both if not one.is_floating_point() and not torch.equal(one, other)]

    def applied(self, text: Text, strength: float) -> Text:
        """`text` [1, N, width] with this strength of the words, 0 to 1; N may be more than the prompt has."""
        length = self.whole.columns.shape[1]
        columns = text.columns.clone()
        columns[:, :length] = _moved(columns[:, :length], self.whole.columns, self.without.columns, strength)
        extra = dict(text.extra)
        for key, one, other in _shared(self.whole.extra, self.without.extra):
            own = extra.get(key)
            if isinstance(own, Tensor) and own.shape == one.shape:
                extra[key] = _moved(own, one, other, strength) if one.is_floating_point() else other
        return Text(columns, extra)


def _moved(own: Tensor, whole: Tensor, without: Tensor, strength: float) -> Tensor:
    """own + (1 - strength) (without - whole); `without` itself, bit for bit, where own is whole and strength 0."""
    whole, without = whole.to(own), without.to(own)
    return torch.lerp(own, without + (own - whole), 1 - strength)


def _shared(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Tensor, Tensor]]:
    """The tensors of one shape that both have."""
    both = [(key, one[key], other.get(key)) for key in one]
    return [
        (key, own, its) for key, own, its in both
        if isinstance(own, Tensor) and isinstance(its, Tensor) and own.shape == its.shape
    ]


def change_of(
    clip: CLIP, text: Text, phrases: Sequence[str], gone: Sequence[str], node: str
) -> tuple[TextChange, list[str]]:
    """The prompt of a conditioning with and without these phrases, and sentences for the user.

    gone: phrases that are in neither. Raises ValueError where the clip is not the one that encoded the prompt, or its
    words cannot be told.
    """
    words: PromptWords = text.extra[CONDITIONING_KEY]
    try:
        before = without_words(clip, words, gone, text.extra.keys())
        after = without_words(clip, words, [*gone, *phrases], text.extra.keys())
    except UnknownWords as reason:
        raise ValueError(
            f"{node}: strength below 1 needs the words of the prompt, but {reason}. Use a strength above 1."
        ) from reason
    weakened: Weakened | None = text.extra.get(WEAKENED_KEY)
    known = text.columns if weakened is None else weakened.columns
    wholes, withouts = (_encoded(clip, filled.tokens) for filled in (before, after))
    for whole, without in zip(wholes, withouts, strict=True):  # several where hooks are scheduled on the encoder
        if whole.same(known):
            return TextChange(whole, without), after.notes
    raise ValueError(
        f"{node}: clip does not encode the prompt to this conditioning. Connect the CLIP that Prompt with Words has, "
        "and this node directly behind it: other nodes may then follow."
    )


def _encoded(clip: CLIP, tokens: dict[str, Any]) -> list[Text]:
    return [Text(columns, extra) for columns, extra in clip.encode_from_tokens_scheduled(tokens)]
