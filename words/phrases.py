"""Find the words that a user names again among the words of a prompt."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterator

from .prompt import CONDITIONING_KEY, PROBLEM_KEY, PromptWords

MOST_DIGITS = 9  # of a token number
Find = Callable[[PromptWords, str], tuple[int, ...]]


def _normal(text: str) -> str:
    return re.sub(r"\s+", "", unicodedata.normalize("NFC", text).lower())


def is_token_number(phrase: str) -> bool:
    """Whether a phrase names a token by its column, such as "#5"."""
    return re.fullmatch(r"#\d+", phrase) is not None


def find_phrase(prompt: PromptWords, phrase: str) -> tuple[int, ...]:
    """The token columns of the first place where `phrase` stands in the prompt as whole words; () where it does not.

    "#5" means the token in column 5, counted from 0 with the start token.
    """
    return next(_places(prompt, phrase), ())


def find_every(prompt: PromptWords, phrase: str) -> tuple[int, ...]:
    """As find_phrase, of all places where it stands."""
    return tuple(dict.fromkeys(column for columns in _places(prompt, phrase) for column in columns))


def _places(prompt: PromptWords, phrase: str) -> Iterator[tuple[int, ...]]:
    if is_token_number(phrase):
        digits = phrase[1:].lstrip("0") or "0"
        column = int(digits[:MOST_DIGITS])  # Python refuses to read numbers of thousands of digits
        if len(digits) <= MOST_DIGITS and column < prompt.length:
            yield (column,)
        return
    wanted = _normal(phrase)
    for first in range(len(prompt.words)):
        text = ""
        columns: dict[int, None] = {}  # two words may share a token
        for word in prompt.words[first:]:
            text += _normal(word.text)
            columns.update(dict.fromkeys(word.tokens))
            if text == wanted:
                yield tuple(columns)
                break
            if not wanted.startswith(text):
                break


def nearest_phrase(prompt: PromptWords, phrase: str) -> str | None:
    """The run of as many words of the prompt as `phrase` has that is spelled most like it, if any is."""
    texts = [word.text for word in prompt.words]
    count = len(phrase.split())
    runs = [" ".join(texts[first : first + count]) for first in range(len(texts))]
    return next(iter(difflib.get_close_matches(phrase.lower(), runs, n=1)), None)


def split_phrases(text: str) -> list[str]:
    """The phrases a user typed, separated by commas or line breaks."""
    return [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]


def word_list(prompt: PromptWords) -> list[str]:
    """The different words of a prompt, without punctuation, for a message."""
    texts = dict.fromkeys(word.text for word in prompt.words)
    return [text for text in texts if any(not unicodedata.category(letter).startswith("P") for letter in text)]


def token_labels(prompt: PromptWords | None, length: int) -> list[str]:
    """A label for each token column: its word, "" for start, end and padding, "#n" where no words are known."""
    if prompt is None:
        return [f"#{column}" for column in range(length)]
    labels = [""] * prompt.length + [f"#{column}" for column in range(prompt.length, length)]
    for word in prompt.words:
        for column in word.tokens:
            labels[column] = word.text
    return labels[:length]


def phrase_columns(
    words: PromptWords | None, length: int | None, phrase: str, find: Find = find_phrase
) -> tuple[int, ...]:
    """find_phrase or find_every in a conditioning of `length` tokens, of which the words may not be known."""
    if words is None or is_token_number(phrase):
        words = PromptWords((), length or 0)
    return find(words, phrase)


def check_phrases(conditioning: list, phrases: list[str], node: str) -> None:
    """Raise ValueError, with the words there are, unless every phrase is in one of the prompts."""
    prompts = [(extra.get(CONDITIONING_KEY), text.shape[1]) for text, extra in conditioning if text is not None]
    prompts = [(words and words._replace(words=words.seen), length) for words, length in prompts]
    known = [words for words, _ in prompts if words is not None]
    problems = [extra[PROBLEM_KEY] for _, extra in conditioning if PROBLEM_KEY in extra]
    texts = ", ".join(dict.fromkeys(text for words in known for text in word_list(words))) or "none"
    if not phrases:
        raise ValueError(f"{node}: no words are given. Name words of the prompt, separated by commas. It has: {texts}.")
    for phrase in phrases:
        if any(phrase_columns(words, length, phrase) for words, length in prompts):
            continue
        if is_token_number(phrase):
            last = max((length for _, length in prompts), default=0) - 1
            raise ValueError(f"{node}: there is no token {phrase}. The prompt has the tokens #0 to #{last}.")
        if problems and not known:
            raise ValueError(
                f'{node}: cannot find "{phrase}", because {problems[0]}. '
                "Give token numbers such as #5 (#0 is the first), or use another text encoder."
            )
        if not known:
            raise ValueError(
                f'{node}: cannot find "{phrase}", because this prompt does not say which tokens its words became. '
                'Encode it with the "Prompt with Words" node, or give token numbers such as #5 (#0 is the start).'
            )
        near = next((found for words in known if (found := nearest_phrase(words, phrase))), None)
        hint = f' Did you mean "{near}"?' if near else ""
        raise ValueError(f'{node}: "{phrase}" is not in the prompt.{hint} Its words are: {texts}.')
