from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..sampling.bind import bind_phrases as bound
from ..words.phrases import split_phrases
from ..words.prompt import CONDITIONING_KEY, PROBLEM_KEY, UnknownWords, prompt_words
from .checks import checked
from .sockets import CATEGORY

log = logging.getLogger(__name__)
NO_ENCODER = "there is no text encoder. Choose a checkpoint that contains one, or load it with a CLIP loader."


class SemanticGuidancePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidancePrompt",
            display_name="Prompt with Words",
            category=CATEGORY,
            description="Encodes a prompt exactly as CLIP Text Encode does, and remembers which tokens each word "
            "became, so that the other nodes of this pack can name words.",
            search_aliases=["clip text encode", "prompt", "word", "token", "semantic guidance"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder: CLIP, T5, Qwen, Gemma, Mistral and others."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt. Weights such as (cat:1.2), embeddings and long prompts work as usual.",
                ),
                io.String.Input(
                    "bind_phrases", default="", optional=True, advanced=True,
                    tooltip="Phrases of the prompt whose words belong together, separated by commas: red balloon, blue "
                    "car. Each is encoded by itself as well, and a part of what the model draws of it comes from there "
                    "(StructureDiffusion). Only for Stable Diffusion 1 and 2 and SDXL; costs no time. Empty: off.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    tooltip="The same conditioning that CLIP Text Encode gives, with the words recorded in it, and the "
                    "bound phrases, if any."
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, clip, text: str, bind_phrases: str = "") -> io.NodeOutput:
        if clip is None:
            raise ValueError(f"Prompt with Words: {NO_ENCODER}")
        tokens = clip.tokenize(text)
        conditioning, notes = _with_words(clip.encode_from_tokens_scheduled(tokens), clip, text)
        phrases = split_phrases(bind_phrases)
        if phrases:
            conditioning = bound(conditioning, clip, tokens, phrases)
        for note in notes:
            log.warning("Prompt with Words: %s", note)
        return io.NodeOutput(conditioning)


class SemanticGuidanceWords(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceWords",
            display_name="Words of a Prompt",
            category=CATEGORY,
            description="Tells the other nodes of this pack which tokens the words became of a prompt that another "
            "node has encoded. Not needed behind Prompt with Words.",
            search_aliases=["word", "token", "prompt control", "scheduled prompt", "semantic guidance"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that the other node encoded the prompt with."),
                io.String.Input(
                    "text",
                    multiline=True,
                    tooltip="The prompt that the other node encoded, as the text encoder read it: without what that "
                    "node itself understood, such as schedules.",
                ),
                io.Conditioning.Input("conditioning", tooltip="What the other node encoded."),
            ],
            outputs=[io.Conditioning.Output(tooltip="The same conditioning with the words recorded in it.")],
        )

    @classmethod
    @checked
    def execute(cls, clip, text: str, conditioning: list) -> io.NodeOutput:
        if clip is None:
            raise ValueError(f"Words of a Prompt: {NO_ENCODER}")
        conditioning, notes = _with_words(conditioning, clip, text)
        if not any(CONDITIONING_KEY in extra for _, extra in conditioning):
            reason = notes[0] if notes else "The conditioning has no text."
            raise ValueError(f"Words of a Prompt: {reason} Is this the text that was encoded, and the text encoder?")
        for note in notes:
            log.warning("Words of a Prompt: %s", note)
        return io.NodeOutput(conditioning)


def _with_words(conditioning: list, clip, text: str) -> tuple[list, list[str]]:
    """A conditioning with the words of a text in every entry that it fits, and what a user should read about them."""
    known: dict[tuple, dict[str, Any]] = {}
    notes: list[str] = []
    entries = []
    for columns, extra in conditioning:
        kept = {key: value for key, value in extra.items() if key not in (CONDITIONING_KEY, PROBLEM_KEY)}
        if columns is not None:
            layout = (columns.shape[1], frozenset(kept))
            if layout not in known:
                known[layout] = _recorded(clip, text, *layout, notes)
            kept |= known[layout]
        entries.append([columns, kept])
    return entries, notes


def _recorded(clip, text: str, length: int, beside: frozenset[str], notes: list[str]) -> dict[str, Any]:
    try:
        words, found = prompt_words(clip, text, length, beside)
    except Exception as error:  # text encoders of other packs may be made in any way, and their prompts are encoded
        known = isinstance(error, UnknownWords)
        reason = str(error) if known else f"its text encoder is not made as ComfyUI's are ({error!r})"
        log.debug("Words of a prompt", exc_info=error)
        notes.append(f"The words of this prompt are unknown, because {reason}. Other nodes can name its tokens by "
                     "number, such as #5.")
        return {PROBLEM_KEY: reason}
    notes += [note for note in found if note not in notes]
    return {CONDITIONING_KEY: words}


NODES = [SemanticGuidancePrompt, SemanticGuidanceWords]
