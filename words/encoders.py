"""The tokens that the host's text encoders read, and where their columns are in its conditioning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .pieces import Spelling, spelling

if TYPE_CHECKING:
    from comfy.sd import CLIP

_PROBES = "zqxjkvwbpygfumclrdhsinoate0123456789"


class UnknownWords(Exception):
    """Why the words of a prompt cannot be told: a clause that goes on after "because"."""


class Embedding(NamedTuple):
    """A vector of a textual inversion file in place of a token; all vectors of a file share a group."""

    group: int


class Encoder(NamedTuple):
    """What one text encoder reads.

    entries: one for each column it makes: a token, an embedding, or None for start, end and padding.
    head, tail: how many of them stand before and after the prompt, whatever the prompt is: the template.
    """

    name: str
    kind: Spelling
    vocabulary: Mapping[int, str]
    entries: list[int | Embedding | None]
    head: int
    tail: int


class Placed(NamedTuple):
    """The columns that an encoder made; its entry `first` is in the first of them."""

    encoder: Encoder
    columns: range
    first: int = 0

    def column(self, entry: int) -> int | None:
        column = self.columns.start + entry - self.first
        return column if column in self.columns else None


def place_encoders(clip: CLIP, text: str, length: int) -> tuple[list[Placed], Placed | None]:
    """The encoders that made the columns of a conditioning, and the one whose tokens the model takes as they are.

    How many tokens an encoder leaves out again is measured. It can be the template in front of the prompt (Qwen-Image),
    some of what follows the prompt as well (LongCat), or nothing (Z-Image). Raises UnknownWords.
    """
    clips, main, ids = _encoders(clip, text)
    if main is None:
        placed = [Placed(encoder, range(length)) for encoder in clips[:1]]
        read = _shared(clips)
        fits = read == length
    elif clips and _shared(clips) + len(main.entries) == length:  # SD3
        border = _shared(clips)
        return [Placed(clips[0], range(border)), Placed(main, range(border, length))], None
    else:
        read = len(main.entries)
        placed = [Placed(main, range(length), min(read - length, main.head))]
        fits = 0 <= read - length <= main.head + main.tail
    if not fits:
        name = placed[0].encoder.name
        raise UnknownWords(f"{name} makes {read} tokens of the prompt, and the conditioning has {length} columns")
    return placed, ids and Placed(ids, range(len(ids.entries)))


def _shared(clips: list[Encoder]) -> int:
    """CLIP's encoders share columns; the host cuts to the shorter."""
    return min(len(encoder.entries) for encoder in clips)


def _encoders(clip: CLIP, text: str) -> tuple[list[Encoder], Encoder | None, Encoder | None]:
    """Those of CLIP's kind, the first other one, and one whose tokens no text encoder reads.

    SD3 and HiDream may be loaded without some of theirs. Anima has T5's tokens without a T5.
    """
    tokens, probe = (clip.tokenize(prompt, return_word_ids=True) for prompt in (text, _probe(text)))
    clips: list[Encoder] = []
    others: list[Encoder | None] = []
    ids: list[Encoder] = []
    for name in tokens:
        vocabulary = getattr(_get(clip.tokenizer, name), "inv_vocab", None)
        if vocabulary:
            module = _get(clip.cond_stage_model, name, "")
            encoder = _encoder(name, vocabulary, tokens[name], probe[name], module)
            if module == "":
                ids.append(encoder)
            elif encoder.kind != "clip":
                others.append(encoder if module is not None else None)
            elif module is not None:
                clips.append(encoder)
    if not clips and not others:  # HiDream-O1: the model itself reads the tokens
        others, ids = [*ids[:1]], ids[1:]
    if not clips and not others:
        raise UnknownWords(f"the text encoder ({', '.join(tokens)}) does not show its vocabulary")
    return clips, next(iter(others), None), next(iter(ids), None)


def _get(owner: Any, name: str, default: Any = None) -> Any:
    """What the host holds for tokens[name]: it is called clip_l for "l", and t5xxl or clip_t5xxl for "t5xxl"."""
    return getattr(owner, f"clip_{name}", getattr(owner, name, default))


def _encoder(name: str, vocabulary: Mapping[int, str], chunks: list, probe: list, module: Any) -> Encoder:
    grouped = any(_group(entry) for chunk in chunks for entry in chunk)
    entries: list[int | Embedding | None] = []
    for chunk in chunks:
        width = _width(module, chunk)
        kept = [entry for entry in chunk if isinstance(entry[0], int) or entry[0].shape[-1] == width]
        for entry in kept:
            if not isinstance(entry[0], int):
                entries.append(Embedding(_group(entry)))
            else:
                entries.append(int(entry[0]) if _group(entry) or not grouped else None)
        entries += [None] * (len(chunk) - len(kept))  # the host pads what other encoders' embeddings leave
    ids, others = ([entry[0] for chunk in prompt for entry in chunk] for prompt in (chunks, probe))
    head = _common(ids, others)
    tail = _common(ids[head:][::-1], others[head:][::-1])
    return Encoder(name, spelling(vocabulary), vocabulary, entries, head, tail)


def _group(entry: tuple) -> int:
    """Of return_word_ids: 0 for start, end and padding. Some tokenizers (LongCat, Lens) give none."""
    return entry[2] if len(entry) > 2 else 0


def _width(module: Any, chunk: list) -> int | None:
    if module is None or all(isinstance(entry[0], int) for entry in chunk):
        return None
    return module.transformer.get_input_embeddings().weight.shape[-1]


def _common(ids: list, others: list) -> int:
    """How many tokens two prompts begin alike with."""
    pairs = zip(ids, others, strict=False)
    return next(
        (n for n, (one, other) in enumerate(pairs) if not isinstance(one, int) or one != other),
        min(len(ids), len(others)),
    )


def _probe(text: str) -> str:
    """A letter that is not in the text, so that it has no token in common with the text but the template's."""
    lower = text.casefold()
    return next((letter for letter in _PROBES if letter not in lower), "\u00a7")
