"""Sampling with and without Word Strength on tiny models, through the node that a user has."""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from host import tiny
from node_defaults import defaults
from torch import Tensor

from semantic_guidance.nodes.word_strength import SemanticGuidanceWordStrength
from semantic_guidance.sampling.conds import STRENGTH_KEY
from semantic_guidance.words.prompt import CONDITIONING_KEY, PromptWords, prompt_words

DEFAULTS = defaults(SemanticGuidanceWordStrength)


def strength(model, conditioning: list, words: str, value: float = 2.0, **settings) -> tuple:
    """The outputs of the node: the model, the conditioning, and the record."""
    settings = {**DEFAULTS, "words": words, "strength": value, **settings}
    with torch.inference_mode():
        return SemanticGuidanceWordStrength.execute(model, conditioning, **settings).result


def strengthened(
    model, words: str = "#2, #5", value: float = 2.0, conditioning: list | None = None, **settings
) -> tuple:
    """The model and the record; every positive prompt that it is sampled with counts as one that the node gave."""
    model, conditioning, record = strength(model, conditioning or tiny.prompt(0), words, value, **settings)
    marks = conditioning[0][1][STRENGTH_KEY]

    def outer_sample(executor, *args, **kwargs):
        for cond in executor.class_obj.conds["positive"]:
            cond[STRENGTH_KEY] = {**(cond.get(STRENGTH_KEY) or {}), **marks}
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "test.strength", outer_sample)
    return model, record


class TinyText:
    """A text encoder of any family: tokens are words, and what a column holds depends on the words before it."""

    words = ("", "a", "the", "cat", "red", "balloon", "and", "on", "house")

    def __init__(self, name: str, prompt: list):
        (self.like, self.extra), = prompt
        self.names = ["t5xxl", "qwen"] if "t5xxl_ids" in self.extra else ["qwen"]
        self.tokenizer = self
        self.cond_stage_model = self
        self.qwen = self
        self.inv_vocab = {number: f"\u2581{word}" for number, word in enumerate(self.words)}
        if "t5xxl_ids" in self.extra:
            self.t5xxl = self

    def tokenize(self, text: str, return_word_ids: bool = False) -> dict[str, Any]:
        numbers = [self.words.index(word) if word in self.words else len(self.words) for word in text.split()]
        tokens = [(number, 1.0, place + 1) for place, number in enumerate(numbers)]
        length = self.like.shape[1]
        found = {"qwen": [*tokens, *[(0, 1.0, 0)] * (length - len(tokens))], "t5xxl": tokens}
        return {name: [[t if return_word_ids else t[:2] for t in found[name]]] for name in self.names}

    def encode_from_tokens_scheduled(self, tokens: dict[str, Any]) -> list:
        width = self.like.shape[2]
        table = torch.randn(len(self.words) + 1, width, generator=torch.Generator().manual_seed(11))
        own = torch.stack([table[token[0]] for token in tokens["qwen"][0]])
        columns = own + 0.5 * own.cumsum(dim=0) / torch.arange(1, len(own) + 1)[:, None]
        extra = dict(self.extra)
        if isinstance(extra.get("pooled_output"), Tensor):
            extra["pooled_output"] = extra["pooled_output"] + own.mean()
        if "t5xxl_ids" in extra:
            extra["t5xxl_ids"] = torch.tensor([token[0] for token in tokens["t5xxl"][0]])
            extra["t5xxl_weights"] = torch.ones(len(extra["t5xxl_ids"]))
        return [[columns[None], extra]]

    def encode(self, text: str) -> list:
        """As Prompt with Words does."""
        ((columns, extra),) = self.encode_from_tokens_scheduled(self.tokenize(text))
        words, _ = prompt_words(self, text, columns.shape[1], extra.keys())
        assert isinstance(words, PromptWords)
        return [[columns, {**extra, CONDITIONING_KEY: words}]]
