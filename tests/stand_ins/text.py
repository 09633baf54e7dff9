"""Tiny text encoders of the host's own classes, with its own tokenizers, as wide as the stand-ins take them."""
from __future__ import annotations

import io
from functools import partial
from typing import Any, NamedTuple

import comfy.sd
import comfy.text_encoders.anima as anima
import comfy.text_encoders.flux as flux
import comfy.text_encoders.llama as llama
import comfy.text_encoders.qwen_image as qwen_image
import comfy.text_encoders.wan as wan
import comfy.text_encoders.z_image as z_image
import sentencepiece
import torch
from comfy.sd1_clip import SDClipModel
from comfy.supported_models_base import ClipTarget
from host.tiny import randomise
from host.tiny_dit import WIDTH

try:
    import comfy.text_encoders.qwen3vl as qwen3vl
    from comfy.text_encoders.krea2 import Krea2TEModel, Krea2Tokenizer
except ImportError:
    qwen3vl = None  # an older ComfyUI, without Krea 2

QWEN = dict(
    hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=3, num_attention_heads=1, num_key_value_heads=1
)
KLEIN = dict(QWEN, hidden_size=WIDTH // 3)  # the text is what three layers say
UMT5 = dict(d_model=WIDTH, d_ff=WIDTH, d_kv=16, num_heads=2, num_layers=2)
SENTENCES = [
    "a fox runs through the snow, a red balloon over the mountains", "the quick brown dog jumps over lazy blue cats",
]


def without_eyes(kind: type, config_of: type, **options) -> partial:
    """An encoder with the language model alone: its eyes have hundreds of millions of weights at any size."""

    class LanguageModelOnly(kind):
        def __init__(self, config, dtype, device, operations) -> None:
            torch.nn.Module.__init__(self)
            known = config_of(**config)
            self.num_layers, self.dtype = known.num_hidden_layers, dtype
            self.model = llama.Llama2_(known, device=device, dtype=dtype, ops=operations)

    return partial(
        SDClipModel, textmodel_json_config={}, special_tokens={"pad": 151643}, layer_norm_hidden_state=False,
        model_class=LanguageModelOnly, enable_attention_masks=True, return_attention_masks=True, **options,
    )


class Encoder(NamedTuple):
    tokenizer: type
    model: type
    options: dict[str, Any]  # by which the host lets a part of a text encoder be another


ENCODERS = {
    "Anima": Encoder(anima.AnimaTokenizer, anima.AnimaTEModel, {"qwen3_06b_model_config": QWEN}),
    "Z-Image": Encoder(z_image.ZImageTokenizer, z_image.ZImageTEModel, {"qwen3_4b_model_config": QWEN}),
    "Qwen-Image": Encoder(
        qwen_image.QwenImageTokenizer, qwen_image.QwenImageTEModel,
        {
            "qwen25_7b_model_config": QWEN,
            "qwen25_7b_class": without_eyes(llama.Qwen25_7BVLI, llama.Qwen25_7BVLI_Config),
        },
    ),
    "Flux.2 Klein": Encoder(
        flux.KleinTokenizer, flux.klein_te(),
        {"qwen3_4b_model_config": KLEIN, "qwen3_4b_class": partial(flux.Qwen3_4BModel, layer=[0, 1, 2])},
    ),
    "Wan 2.1": Encoder(wan.WanT5Tokenizer, wan.WanT5Model, {"umt5xxl_model_config": UMT5}),
}
if qwen3vl:
    two_layers = without_eyes(qwen3vl.Qwen3VL, llama.Qwen3VL_4BConfig, layer=[1, 2], layer_idx=None)
    ENCODERS["Krea 2"] = Encoder(
        Krea2Tokenizer, Krea2TEModel, {"qwen3vl_4b_model_config": QWEN, "qwen3vl_4b_class": two_layers},
    )


def text_encoder(name: str) -> comfy.sd.CLIP:
    encoder = ENCODERS[name]
    built = comfy.sd.CLIP(
        ClipTarget(encoder.tokenizer, encoder.model), tokenizer_data={"spiece_model": sentence_pieces()},
        model_options={**encoder.options, "dtype": torch.float32},
    )
    randomise(built.cond_stage_model)
    return built


def sentence_pieces() -> bytes:
    """A tokenizer for umT5, which comes with its weights. Its special tokens have the numbers of the real one."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=written, model_type="char", vocab_size=64,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )
    return written.getvalue()
