"""The tokens that the host's text encoders read, and where their columns are in its conditioning."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .pieces import Spelling, spelling

if TYPE_CHECKING:
    from comfy.sd import CLIP

_ABSENT = object()
_PROBES = "zqxjkvwbpygfumclrdhsinoate0123456789"


class UnknownWords(Exception):
    """Why the words of a prompt cannot be told: a clause that goes on after "because"."""


class Embedding(NamedTuple):
    """A vector of a textual inversion file in place of a token; all vectors of a file share a group."""

    group: int


class Encoder(NamedTuple):
    """What one text encoder reads.

    entries: one for each column it makes: a token, an embedding, or None for start, end and padding.
    prompt: the places of the prompt in them; the template is around it.
    origins: the chunk and the place in it of each entry, among what the tokenizer gives; None for what the host pads.
    """

    name: str
    kind: Spelling
    vocabulary: Mapping[int, str]
    entries: list[int | Embedding | None]
    prompt: range
    origins: list[tuple[int, int] | None]


class Placed(NamedTuple):
    """The columns that an encoder made; its entry `first` is in the first of them."""

    encoder: Encoder
    columns: range
    first: int = 0

    def column(self, entry: int) -> int | None:
        column = self.columns.start + entry - self.first
        return column if column in self.columns else None


def place_encoders(
    clip: CLIP, text: str, length: int, beside: Collection[str]
) -> tuple[list[Placed], Placed | None]:
    """The encoders that made the columns of a conditioning, and one whose token ids lie beside it.

    How many tokens an encoder leaves out again is measured. It can be the template in front of the prompt (Qwen-Image),
    some of what follows the prompt as well (LongCat), or nothing (Z-Image). Raises UnknownWords.
    """
    clips, main, ids = _encoders(clip, text, beside)
    if main is None:
        placed = [Placed(encoder, range(length)) for encoder in clips[:1]]
        read = _shared(clips)
        fits = read == length
    elif clips and _shared(clips) + len(main.entries) == length:  # SD3
        border = _shared(clips)
        return [Placed(clips[0], range(border)), Placed(main, range(border, length))], None
    else:
        read = len(main.entries)
        placed = [Placed(main, range(length), min(read - length, main.prompt.start))]
        fits = 0 <= read - length <= read - len(main.prompt)
    if not fits:
        name = placed[0].encoder.name
        raise UnknownWords(f"{name} makes {read} tokens of the prompt, and the conditioning has {length} columns")
    return placed, ids and Placed(ids, range(len(ids.entries)))


def _shared(clips: list[Encoder]) -> int:
    """CLIP's encoders share columns; the host cuts to the shorter."""
    return min(len(encoder.entries) for encoder in clips)


def _encoders(
    clip: CLIP, text: str, beside: Collection[str]
) -> tuple[list[Encoder], Encoder | None, Encoder | None]:
    """Those of CLIP's kind, the first other one, and one whose token ids are handed on: Anima's T5.

    SD3 and HiDream may be loaded without some of theirs. Where the host has no encoder at all, the model itself reads
    the tokens (HiDream-O1).
    """
    clips: list[Encoder] = []
    others: list[Encoder | None] = []
    ids = unread = None
    encoders = read_encoders(clip, text)
    for name, encoder in encoders.items():
        module = _get(clip.cond_stage_model, name, _ABSENT)
        if f"{name}_ids" in beside:
            ids = encoder
        elif module is _ABSENT:
            unread = unread or encoder
        elif encoder.kind != "clip":
            others.append(None if module is None else encoder)
        elif module is not None:
            clips.append(encoder)
    main = others[0] if others else None if clips else unread
    if main is None and not clips:
        raise UnknownWords(f"the text encoder ({', '.join(clip.tokenize(text))}) does not show its vocabulary")
    return clips, main, ids


def read_encoders(clip: CLIP, text: str) -> dict[str, Encoder]:
    """What each text encoder that shows its vocabulary reads of a text, by the name of its tokens."""
    tokens, probe = (clip.tokenize(prompt, return_word_ids=True) for prompt in (text, _probe(text)))
    vocabularies = {name: getattr(_get(clip.tokenizer, name), "inv_vocab", None) for name in tokens}
    return {
        name: _encoder(name, vocabulary, tokens[name], probe.get(name, []), _get(clip.cond_stage_model, name, _ABSENT))
        for name, vocabulary in vocabularies.items() if vocabulary
    }


def _get(owner: Any, name: str, default: Any = None) -> Any:
    """What the host holds for tokens[name]: it is called clip_l for "l", and t5xxl or clip_t5xxl for "t5xxl"."""
    return getattr(owner, f"clip_{name}", getattr(owner, name, default))


def _encoder(name: str, vocabulary: Mapping[int, str], chunks: list, probe: list, module: Any) -> Encoder:
    grouped = _is_grouped(chunks)
    entries: list[int | Embedding | None] = []
    origins: list[tuple[int, int] | None] = []
    for number, chunk in enumerate(chunks):
        width = _width(module, chunk)
        for place, entry in enumerate(chunk):
            if isinstance(entry[0], int):
                entries.append(None if grouped and _is_special(entry) else entry[0])
            elif module is _ABSENT or entry[0].shape[-1] == width:  # what hands its tokens on has no width (Anima's T5)
                entries.append(Embedding(entry[2] if grouped else 0))
            else:
                continue
            origins.append((number, place))
        left = sum(map(len, chunks[: number + 1])) - len(entries)
        entries += [None] * left  # the host pads what other encoders' embeddings leave
        origins += [None] * left
    return Encoder(name, spelling(vocabulary), vocabulary, entries, _prompt(entries, probe), origins)


def _is_special(entry: tuple) -> bool:
    """Start, end and padding, as return_word_ids tells them."""
    return len(entry) > 2 and entry[2] == 0


def _is_grouped(chunks: list) -> bool:
    """MiniMax calls all tokens special."""
    return not all(_is_special(entry) for chunk in chunks for entry in chunk)


def _width(module: Any, chunk: list) -> int | None:
    if all(isinstance(entry[0], int) for entry in chunk) or not hasattr(module, "transformer"):
        return None
    return module.transformer.get_input_embeddings().weight.shape[-1]


def _prompt(entries: list[int | Embedding | None], probe: list) -> range:
    """Where the entries are not those that any other prompt has as well, at the start and at the end."""
    grouped = _is_grouped(probe)
    others = [entry[0] for chunk in probe for entry in chunk if not (grouped and _is_special(entry))]
    places = [place for place, entry in enumerate(entries) if entry is not None]
    own = [entries[place] for place in places]
    head = _alike(own, others)
    tail = _alike(own[head:][::-1], others[head:][::-1])
    within = places[head : len(places) - tail]
    return range(within[0], within[-1] + 1) if within else range(0)


def _alike(entries: list, others: list) -> int:
    """How many entries two lists begin alike with."""
    pairs = zip(entries, others, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(entries), len(others)))


def _probe(text: str) -> str:
    """A letter that is not in the text, so that it has no token in common with the text but the template's."""
    lower = text.casefold()
    return next((letter for letter in _PROBES if letter not in lower), "\u00a7")
