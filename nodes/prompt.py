from __future__ import annotations

import logging
from collections.abc import Collection

from comfy_api.latest import io

from ..words.prompt import CONDITIONING_KEY, PROBLEM_KEY, UnknownWords, prompt_words
from .checks import checked
from .sockets import CATEGORY

log = logging.getLogger(__name__)


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
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint: SD 1.x, SD 2.x or SDXL."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt. Weights such as (cat:1.2), embeddings and long prompts work as usual.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    tooltip="The same conditioning that CLIP Text Encode gives, with the words recorded in it."
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, clip, text: str) -> io.NodeOutput:
        if clip is None:
            raise ValueError("Prompt with Words: there is no text encoder. Choose a checkpoint that contains one, "
                             "or load it with a CLIP loader.")
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        found: dict[int, dict] = {}
        for columns, extra in conditioning:
            length = columns.shape[1]
            if length not in found:
                found[length] = _recorded(clip, text, length, extra.keys())
            extra.update(found[length])
        return io.NodeOutput(conditioning)


def _recorded(clip, text: str, length: int, beside: Collection[str]) -> dict:
    """What a conditioning of `length` columns carries for the other nodes."""
    try:
        words, notes = prompt_words(clip, text, length, beside)
    except UnknownWords as reason:
        log.warning("Prompt with Words: the words of this prompt are unknown, because %s. Other nodes can name its "
                    "tokens by number, such as #5.", reason)
        return {PROBLEM_KEY: str(reason)}
    for note in notes:
        log.warning("Prompt with Words: %s", note)
    return {CONDITIONING_KEY: words}


NODES = [SemanticGuidancePrompt]
