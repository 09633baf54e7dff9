"""The text of a processed cond, as the attention of a model family has it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from ..attention_hooks.families import Family
from ..words.phrases import find_every, phrase_columns, token_labels
from ..words.prompt import CONDITIONING_KEY, PromptWords
from .conds import text_length

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

NEGPIP = "ppm_negpip"  # in the options of a model whose prompts NegPip has encoded as keys and values in turn


class PromptText(NamedTuple):
    """Columns count the tokens that the model is called with, which it may have lengthened."""

    length: int
    compared: int  # the first so many columns, among which attention is compared: all but those of SD 3's T5
    moved: int  # how far the encoded columns lie behind their place in the conditioning
    words: PromptWords | None
    token_ids: Tensor | None  # of which the model makes its columns, instead of the conditioning's own

    def find(self, phrase: str) -> tuple[int, ...]:
        """The columns of a phrase or token number; () where the prompt lacks it."""
        found = phrase_columns(self.words, self.length - self.moved, phrase)
        return tuple(column + self.moved for column in found if column + self.moved < self.compared)

    def labels(self) -> list[str]:
        """For every column, its word, "" for what is none, or "#n" where no words are known."""
        return [""] * self.moved + token_labels(self.words, self.length - self.moved)


def prompt_text(cond: dict[str, Any], family: Family) -> PromptText | None:
    """None without text."""
    length = text_length(cond)
    if not length:
        return None
    encoded = _encoded(cond)
    words = cond.get(CONDITIONING_KEY)
    if family.token_ids and words is not None and words.token_ids is not None:
        words = PromptWords(words.token_ids, length)
    moved = length - encoded.shape[1] if family.padded_in_front else 0
    compared = _clip_columns(encoded, family) if family.clip_features else length
    return PromptText(length, compared, moved, words, cond.get(family.token_ids))


def phrase_places(
    cond: dict[str, Any], family: Family, phrases: Sequence[str]
) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """How many tokens a processed cond's text has, and the columns of every place of each phrase in it.

    Of all encoders whose columns the model attends to: SD 3 has a word in those of CLIP and in those of T5.
    """
    text = prompt_text(cond, family)
    if text is None:
        return 0, ((),) * len(phrases)
    several = [text.words] if text.words is None or not text.words.parts else [
        text.words._replace(words=part.words) for part in text.words.parts
    ]
    columns = []
    for phrase in phrases:
        found = {
            column + text.moved for words in several
            for column in phrase_columns(words, text.length - text.moved, phrase, find_every)
        }
        columns.append(tuple(sorted(column for column in found if column < text.length)))
    return text.length, tuple(columns)


def refuse_shared_words(
    node: str, phrases: Sequence[str], columns: Sequence[Sequence[int]], way_out: str = "Name each word once."
) -> None:
    """ValueError where two phrases have a column in common."""
    for (one, own), (other, others) in combinations(zip(phrases, columns, strict=True), 2):
        if set(own) & set(others):
            raise ValueError(f'{node}: "{one}" and "{other}" name the same word of the prompt. {way_out}')


def refuse_doubled_text(model: ModelPatcher, node: str, way_out: str) -> None:
    """ValueError where NegPip (ppm) has encoded the prompts of this model."""
    if model.model_options.get(NEGPIP):
        raise ValueError(
            f"{node}: NegPip (ppm) is on this model and doubles the text, so that words are not where they were "
            f"encoded. {way_out}"
        )


def word_columns(cond: dict[str, Any], text: PromptText) -> tuple[int, ...]:
    """The columns that words became, not template and padding; where words are not known, all that are not padding.

    Reads the conditioning, which the host keeps on the CPU.
    """
    if text.words is not None:
        found = {column + text.moved for word in text.words.words for column in word.tokens}
    elif text.token_ids is not None:
        found = set(range(text.token_ids.shape[-1]))
    else:
        encoded = _not_padding(_encoded(cond), cond.get("attention_mask"))
        found = {column + text.moved for column in encoded}
    return tuple(sorted(column for column in found if column < text.compared))


def _encoded(cond: dict[str, Any]) -> Tensor:
    """The conditioning; where a node keeps none in the cond, what the model is called with."""
    encoded = cond.get("cross_attn")
    return cond["model_conds"]["c_crossattn"].cond if encoded is None else encoded


def _clip_columns(encoded: Tensor, family: Family) -> int:
    """How many of the columns [B, N, features] CLIP made, in whole chunks; all where no other encoder did."""
    beyond = encoded[:, :: family.chunk, family.clip_features :].ne(0).any(dim=2).any(dim=0).tolist()  # of chunks
    return family.chunk * beyond.index(True) if True in beyond[1:] and not beyond[0] else encoded.shape[1]


def _not_padding(encoded: Tensor, mask: Tensor | None) -> list[int]:
    """The columns [B, N, C] that are not zero, nor masked [B, N]: encoders pad with zeros, or say what is padding."""
    is_text = encoded.ne(0).any(dim=2).any(dim=0)
    if mask is not None and mask.shape[-1] == len(is_text):
        is_text = is_text & mask.reshape(-1, len(is_text)).ne(0).any(dim=0).to(is_text.device)
    return [column for column, text in enumerate(is_text.tolist()) if text]
