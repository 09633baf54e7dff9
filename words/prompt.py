"""Which tokens each word of a prompt became, for every text encoder of the host.

A conditioning made by "Prompt with Words" carries PromptWords at CONDITIONING_KEY. The contract:

  length      the number of columns of the conditioning as encoded, [1, length, channels]
  words       the columns of each word in it, of the part that is read by default
  parts       the same words for every kind of encoder whose columns are in the conditioning, the default part first;
              SD3 has two: CLIP's, 77 a chunk, which L and G share, and T5's behind them
  token_ids   the words among token ids that the host hands to the model beside the conditioning, where the model makes
              columns of its own out of them: Anima's "t5xxl_ids". The conditioning's own columns are not seen then
  text        the prompt itself, from which its tokens can be made again

What a model adds or moves when it takes the conditioning in is not in here: Flux 2 pads it at the front, Z-Image to a
multiple of 32. Whoever reads a processed cond has to apply it.

Where the words cannot be known, the conditioning has no PromptWords, and says why at PROBLEM_KEY. At BOUND_KEY it has
what the model's attention takes its values from, where phrases are bound.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from .encoders import Embedding, Encoder, Placed, UnknownWords, place_encoders
from .pieces import characters
from .split import is_spaceless, word_spans
from .spoken import Spoken, possible_texts, speak

if TYPE_CHECKING:
    from comfy.sd import CLIP

CONDITIONING_KEY = "semantic_guidance_words"
PROBLEM_KEY = "semantic_guidance_no_words"
BOUND_KEY = "semantic_guidance_bound"
EMBEDDING = "(embedding)"


class Word(NamedTuple):
    """A word and the columns of the conditioning that hold its tokens; words may cross a chunk's border."""

    text: str
    tokens: tuple[int, ...]


class Part(NamedTuple):
    """The columns of a conditioning that one kind of text encoder made, and the words in them."""

    name: str  # "clip", or as the host names the encoder: "t5xxl", "qwen3_4b"
    columns: range
    words: tuple[Word, ...]


class PromptWords(NamedTuple):
    """All words of one prompt in order. `length` is the number of tokens of the conditioning, padding included."""

    words: tuple[Word, ...]
    length: int
    parts: tuple[Part, ...] = ()
    token_ids: tuple[Word, ...] | None = None
    text: str = ""

    @property
    def seen(self) -> tuple[Word, ...]:
        """The words that the model attends to, in the columns that it attends to or in the ids that become them."""
        return self.words if self.token_ids is None else self.token_ids

    def part(self, name: str) -> Part | None:
        return next((part for part in self.parts if part.name == name), None)


def prompt_words(
    clip: CLIP, text: str, length: int, beside: Collection[str] = ()
) -> tuple[PromptWords, list[str]]:
    """The words of a text that `clip` encoded to `length` columns, and sentences for its user about them.

    beside: the keys of what the host handed on beside the columns. Raises UnknownWords.
    """
    if not text.strip():
        return PromptWords((), length), []
    placed, ids = place_encoders(clip, text, length, beside)
    seen = default = _read(placed[0], text)
    parts = [Part(_part_name(placed[0]), placed[0].columns, default.words)]
    for item in placed[1:]:
        with suppress(UnknownWords):
            parts.append(Part(_part_name(item), item.columns, _read(item, text).words))
    if ids:
        seen = _read(ids, text)
    notes = _notes((ids or placed[0]).encoder, seen)
    return PromptWords(default.words, length, tuple(parts), seen.words if ids else None, text), notes


def encoder_words(encoder: Encoder, text: str) -> PromptWords:
    """The words of a text among an encoder's own entries. Raises UnknownWords."""
    length = len(encoder.entries)
    return PromptWords(_read(Placed(encoder, range(length)), text).words, length)


def _part_name(placed: Placed) -> str:
    return "clip" if placed.encoder.kind == "clip" else placed.encoder.name


class _Reading(NamedTuple):
    words: tuple[Word, ...]
    unknown: list[str]  # words with characters that the vocabulary does not have
    cut: list[str]  # words that are not in the conditioning
    weight: str  # the first that the encoder read as text


def _read(placed: Placed, text: str) -> _Reading:
    spoken, weight = _speak(placed, text)
    words: list[Word] = []
    unknown, cut = [], []
    for start, stop in _whole_tokens(spoken):
        word = spoken.text[start:stop]
        spelled = spoken.tokens[start:stop]
        if stop > spoken.stop:
            cut.append(word)
        elif None in spelled:
            unknown.append(word)
        else:
            columns = [placed.column(place) for place in _places(placed.encoder, spelled)]
            if None in columns:
                cut.append(word)
            elif columns:
                words.append(Word(word, tuple(columns)))
    words = sorted(words + _embeddings(placed), key=lambda word: word.tokens)
    return _Reading(tuple(words), unknown, cut, weight)


def _places(encoder: Encoder, spelled: Sequence[tuple[int, ...]]) -> list[int]:
    """All tokens from the first of a word to its last: those between are its joiners, which have no letter."""
    places = [place for each in spelled for place in each]
    within = range(min(places), max(places) + 1) if places else ()
    return [place for place in within if isinstance(encoder.entries[place], int)]


def _speak(placed: Placed, text: str) -> tuple[Spoken, str]:
    """The text as the encoder read it, and the first weight that stayed in it."""
    encoder, columns, _ = placed
    found = _spoken(encoder, text, encoder.prompt)
    if not found and len(columns) == len(encoder.entries):  # the prompt has a template of its own, and all is encoded
        found = _spoken(encoder, text, range(len(encoder.entries)))
    if not found:
        raise UnknownWords(f"the tokens that {encoder.name} makes of the prompt spell something else")
    spoken, weight = next((item for item in found if item[0].stop == len(item[0].text)), found[0])
    if not spoken.spaces:
        raise UnknownWords(f"{encoder.name} reads the words of the prompt without the spaces between them")
    return spoken, weight


def _spoken(encoder: Encoder, text: str, places: range) -> list[tuple[Spoken, str]]:
    entries = [(place, encoder.entries[place]) for place in places]
    tokens = [(place, None if isinstance(entry, Embedding) else entry) for place, entry in entries if entry is not None]
    spelled = characters(tokens, encoder.vocabulary, encoder.kind)
    read = [(speak(candidate, spelled), weight) for candidate, weight in possible_texts(text)]
    return [(spoken, weight) for spoken, weight in read if spoken is not None]


def _whole_tokens(spoken: Spoken) -> list[tuple[int, int]]:
    """The spans of words. Characters of a script without spaces that share a token are one word."""
    spans: list[tuple[int, int]] = []
    for start, stop in word_spans(spoken.text):
        if spans and spans[-1][1] == start and is_spaceless(spoken.text[start]):
            before, here = spoken.tokens[start - 1], spoken.tokens[start]
            if before == here or set(before or ()) & set(here or ()):
                start = spans.pop()[0]
        spans.append((start, stop))
    return spans


def _embeddings(placed: Placed) -> list[Word]:
    vectors: dict[int, list[int]] = {}
    for place, entry in enumerate(placed.encoder.entries):
        column = placed.column(place)
        if isinstance(entry, Embedding) and column is not None:
            vectors.setdefault(entry.group, []).append(column)
    return [Word(EMBEDDING, tuple(columns)) for columns in vectors.values()]


def _notes(encoder: Encoder, reading: _Reading) -> list[str]:
    notes = []
    if reading.weight:
        notes.append(f'{encoder.name} has no weights: it reads "{reading.weight}" as text. Write the words alone.')
    unknown = [word for word in reading.unknown if any(letter.isalnum() for letter in word)]
    if unknown:
        notes.append(f"{encoder.name} does not know {_quoted(unknown)}. Other nodes cannot name what it cannot read.")
    if reading.cut:
        notes.append(f"{encoder.name} has no room for all of the prompt; {_quoted(reading.cut)} is left out.")
    return notes


def _quoted(words: list[str]) -> str:
    shown = ", ".join(f'"{word}"' for word in dict.fromkeys(words[:8]))
    return f"{shown} and more" if len(words) > 8 else shown
