"""A model and a prompt on which words have another strength."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

from ...attention_hooks.families import Family, model_family
from ...words.phrases import check_phrases, phrase_columns
from ...words.prompt import CONDITIONING_KEY, PROBLEM_KEY
from ..attention_record import AttentionRecord
from ..conds import STRENGTH_KEY
from ..run import add_run
from .run import StrengthRun
from .settings import NODE, Settings
from .text import WEAKENED_KEY, Text, TextChange, Weakened, change_of

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

log = logging.getLogger(__name__)


def patch_word_strength(
    model: ModelPatcher, conditioning: list, settings: Settings, clip: CLIP | None
) -> tuple[ModelPatcher, list, AttentionRecord]:
    """Clones on which the words have their strength, and the record of what their runs will do; the same at strength 1.

    Raises ValueError, with the way out, for words that the prompt lacks, a strength below 1 without clip, and what this
    model cannot do.
    """
    check_phrases(conditioning, list(settings.words), NODE)
    record = AttentionRecord(NODE, "strength away from 1")
    if settings.strength == 1:
        return model, conditioning, record
    family = _family(model, settings)
    conditioning = [list(entry) for entry in conditioning]
    own = [entry for entry in conditioning if _has_words(entry, settings)]
    changes = [_change(Text(*entry), settings, clip) for entry in own] if settings.strength < 1 else [None] * len(own)
    mark = uuid.uuid4().hex
    model = model.clone()
    add_run(model, lambda guider, sigmas: StrengthRun(guider, settings, family, mark, record), changes_text=True)
    for entry, change in zip(own, changes, strict=True):
        entry[:] = _with_strength(Text(*entry), change, mark, settings)
    return model, conditioning, record


def _family(model: ModelPatcher, settings: Settings) -> Family | None:
    """Of a model whose attention is changed; None where all is done in the text."""
    if 0 <= settings.strength < 1 and settings.mask is None:
        return None
    try:
        family = model_family(model, NODE)
    except ValueError as error:
        raise ValueError(f"{error} A strength from 0 to 1 without a mask works with every model.") from error
    if settings.mask is not None and settings.strength < 1 and (family.kind == "joint" or family.mixes_text):
        raise ValueError(
            f"{NODE}: strength is {settings.strength:g}, and with a mask {family.name} can only do more than 1: its "
            "text is one for the whole picture. Leave the mask out."
        )
    return family


def _has_words(entry: list, settings: Settings) -> bool:
    columns, extra = entry
    words = extra.get(CONDITIONING_KEY)
    words = words and words._replace(words=words.seen)
    length = 0 if columns is None else columns.shape[1]
    return columns is not None and any(phrase_columns(words, length, phrase) for phrase in settings.words)


def _change(text: Text, settings: Settings, clip: CLIP | None) -> TextChange:
    told = f"{NODE}: strength is {settings.strength:g}, and below 1"
    if clip is None:
        raise ValueError(f"{told} it needs the text encoder. Connect clip, the one that Prompt with Words has.")
    if CONDITIONING_KEY not in text.extra:
        reason = text.extra.get(PROBLEM_KEY, "this prompt was encoded without Prompt with Words")
        raise ValueError(
            f"{told} the prompt is encoded again without the words, but {reason}. Encode it with Prompt with Words, or "
            "use a strength above 1."
        )
    weakened: Weakened | None = text.extra.get(WEAKENED_KEY)
    change, notes = change_of(clip, text, settings.words, () if weakened is None else weakened.gone, NODE)
    for note in notes:
        log.warning("%s: %s", NODE, note)
    return change


def _with_strength(text: Text, change: TextChange | None, mark: str, settings: Settings) -> list:
    """The entry of a conditioning, changed where that says it all, and marked for the run."""
    strength = settings.strength
    in_run = strength > 0 and change is not None and bool(change.read_as_numbers())
    if change is not None and strength >= 0 and settings.constant and not in_run:
        text = change.applied(text, strength)
        earlier: Weakened | None = text.extra.get(WEAKENED_KEY)
        gone = () if earlier is None else earlier.gone
        left = Weakened((*gone, *settings.words), change.without.columns) if strength == 0 else None
        text.extra[WEAKENED_KEY] = left or Weakened(gone, change.whole.columns)
        change = None
    marks = {**(text.extra.get(STRENGTH_KEY) or {}), mark: change}
    return [text.columns, {**text.extra, STRENGTH_KEY: marks}]
