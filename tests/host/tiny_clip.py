"""Tiny text encoders of the host's own classes with its own tokenizers, and the host's nodes that make prompts."""

from __future__ import annotations

from pathlib import Path

import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.text_encoders.sd2_clip
from comfy.supported_models_base import ClipTarget
from host.tiny import randomise

from semantic_guidance.words.prompt import PromptWords, prompt_words

TARGETS = {
    "sd1": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel, {"clip_l": 64}),
    "sd2": (comfy.text_encoders.sd2_clip.SD2Tokenizer, comfy.text_encoders.sd2_clip.SD2ClipModel, {"clip_h": 64}),
    "sdxl": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel, {"clip_l": 24, "clip_g": 40}),
}


def clip(family: str, embedding_directory: Path | None = None) -> comfy.sd.CLIP:
    """A CLIP of 3 layers whose conditioning is 64 wide."""
    tokenizer, model, widths = TARGETS[family]
    options = {
        f"{name}_model_config": {
            "hidden_size": width, "intermediate_size": width, "num_attention_heads": 2, "num_hidden_layers": 3,
            "projection_dim": width,
        }
        for name, width in widths.items()
    }
    built = comfy.sd.CLIP(
        ClipTarget(tokenizer, model), embedding_directory=embedding_directory and str(embedding_directory),
        model_options=options, disable_dynamic=True,
    )
    randomise(built.cond_stage_model)
    return built


def words(clip: comfy.sd.CLIP, text: str) -> PromptWords:
    """The words of a prompt without encoding it, for text encoders that make a column of every token."""
    length = sum(map(len, next(iter(clip.tokenize(text).values()))))
    return prompt_words(clip, text, length)[0]
