"""Which tokens each word of a prompt became."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from comfy.sd import CLIP

CONDITIONING_KEY = "semantic_guidance_words"
EMBEDDING = "(embedding)"


class Word(NamedTuple):
    """A word and the columns of the conditioning that hold its tokens; words may cross a chunk's border."""

    text: str
    tokens: tuple[int, ...]


class PromptWords(NamedTuple):
    """All words of one prompt in order. `length` is the number of tokens of the conditioning, padding included."""

    words: tuple[Word, ...]
    length: int


def prompt_words(clip: CLIP, tokens: dict[str, list]) -> PromptWords | None:
    """Group the tokens of CLIP.tokenize(text, return_word_ids=True) into words.

    Works for text encoders with a CLIP tokenizer (SD 1.x, SD 2.x, SDXL). Returns None for others.
    """
    name = next(iter(tokens))
    tokenizer = getattr(clip.tokenizer, f"clip_{name}", None) or getattr(clip.tokenizer, name, None)
    vocabulary = getattr(tokenizer, "inv_vocab", {})
    if tokenizer is None or vocabulary.get(tokenizer.end_token) != "<|endoftext|>":
        return None
    encoder = getattr(clip.cond_stage_model, f"clip_{name}")
    width = encoder.transformer.get_input_embeddings().weight.shape[-1]

    words: list[Word] = []
    ids: list[int] = []  # of the word being read
    columns: list[int] = []
    embedding_group = None
    column = -1
    for chunk in tokens[name]:
        dropped = 0
        for token, _weight, group in chunk:
            if not isinstance(token, int) and token.shape[-1] != width:
                dropped += 1
                continue
            column += 1
            if not isinstance(token, int):
                if group == embedding_group:
                    words[-1] = Word(EMBEDDING, (*words[-1].tokens, column))
                else:
                    words.append(Word(EMBEDDING, (column,)))
                embedding_group = group
                continue
            if group == 0:  # start, end and padding
                continue
            embedding_group = None
            ids.append(token)
            columns.append(column)
            if vocabulary[token].endswith("</w>"):
                words.append(Word(tokenizer.tokenizer.decode(ids).strip(), tuple(columns)))
                ids, columns = [], []
        column += dropped  # the host pads the chunk again after leaving out embeddings for another text encoder
    return PromptWords(tuple(words), column + 1)
