"""The host's other text encoders with its own tokenizers, whose transformers say in each column which token it is of.

Their weights are never made: the encoders are built on the meta device, and each transformer is put out for `Echo`.
Vocabularies that come with a checkpoint (umT5, Gemma, Mistral, GPT-OSS) are trained on a few words here.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import pkgutil
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import comfy.sd
import comfy.text_encoders
import comfy.text_encoders.flux
import torch
import transformers
from comfy.supported_models_base import ClipTarget

WORDS = "a red balloon and the cat with an ant on top of green house describe image user assistant prompt"
MORE = " \u732b \u00f1 ni\u00f1o don't T-shirt , . ( ) : 1 2 \" #"


class Echo(torch.nn.Module):
    """A transformer whose every output column is the number of the token, -1 where it was given a vector."""

    num_layers = 64

    def __init__(self, width: int = 1):
        super().__init__()
        self.width = width
        self.weight = torch.nn.Parameter(torch.zeros(1, width))

    def get_input_embeddings(self):
        def embed(tokens, out_dtype=None):
            return tokens.float()[..., None].expand(*tokens.shape, self.width)

        embed.weight = self.weight
        return embed

    def forward(self, ids, attention_mask=None, embeds=None, intermediate_output=None, capture_layers=(), **kwargs):
        if embeds is None:  # GPT-OSS
            return {"hidden_states": [ids.float()[..., None]] * len(capture_layers)}
        layers = intermediate_output if isinstance(intermediate_output, list) else range(3)
        several = isinstance(intermediate_output, list) or intermediate_output == "all"
        out = embeds.float().clone()
        return out, torch.stack([out for _ in layers], 1) if several else out, out.new_zeros(len(out), 8)


@functools.cache
def sentencepiece_model(**options) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, WORDS + MORE] * 20), model_writer=model, vocab_size=400, hard_vocab_limit=False,
        model_type="bpe", byte_fallback=True, minloglevel=2, character_coverage=1.0, **options,
    )
    return model.getvalue()


def umt5() -> dict:
    return {"spiece_model": torch.frombuffer(bytearray(sentencepiece_model(
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )), dtype=torch.uint8)}  # fmt: skip


def gemma() -> dict:
    return {"spiece_model": torch.frombuffer(bytearray(sentencepiece_model(
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, add_dummy_prefix=False, remove_extra_whitespaces=False,
        normalization_rule_name="identity",
    )), dtype=torch.uint8)}  # fmt: skip


def newbie() -> dict:
    return {"gemma_spiece_model": gemma()["spiece_model"], "jina_spiece_model": gemma()["spiece_model"]}


def mt5() -> dict:
    return {"mt5xl.spiece_model": umt5()["spiece_model"]}


def tekken() -> dict:
    """Mistral's vocabulary: all bytes, then words letter by letter."""
    pieces = [bytes([byte]) for byte in range(256)]
    for word in WORDS.split():
        for spelled in (word, " " + word):
            pieces += [spelled[:stop].encode() for stop in range(2, len(spelled) + 1)]
    pieces = list(dict.fromkeys(pieces))
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    special += [f"<SPECIAL_{n}>" for n in range(len(special), 20)]
    content = {
        "config": {
            "default_vocab_size": len(pieces) + len(special), "default_num_special_tokens": len(special),
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(piece).decode()} for rank, piece in enumerate(pieces)
        ],
        "special_tokens": [{"rank": rank, "token_str": token} for rank, token in enumerate(special)],
    }
    return {"tekken_model": json.dumps(content).encode()}


def load_tekken(data: bytes) -> dict:
    """comfy.text_encoders.flux.load_mistral_tokenizer for transformers 5.23, whose converter takes a file."""
    from transformers.integrations.mistral import MistralConverter

    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(data)
        file.flush()
        return {"tokenizer_object": MistralConverter(file.name).converted(), "legacy": False}


def gpt_oss() -> dict:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[f"<|{name}|>" for name in ("start", "message", "end", "channel", "endoftext")],
    )
    tokenizer.train_from_iterator([WORDS, WORDS + MORE] * 20, trainer)
    return {"tokenizer_json": torch.frombuffer(bytearray(tokenizer.to_str().encode()), dtype=torch.uint8)}


class Family(NamedTuple):
    """An encoder of the host, in comfy.text_encoders: its tokenizer, and its model or what makes one."""

    tokenizer: str
    model: str
    data: Callable[[], dict] = dict
    options: dict = {}
    making: dict = {}


FAMILIES = {
    "SD3": Family("sd3_clip.SD3Tokenizer", "sd3_clip.sd3_clip"),
    "Flux": Family("flux.FluxTokenizer", "flux.FluxClipModel"),
    "Flux 2": Family("flux.Flux2Tokenizer", "flux.flux2_te", tekken),
    "Flux 2 Klein": Family("flux.KleinTokenizer", "flux.klein_te"),
    "AuraFlow": Family("aura_t5.AuraT5Tokenizer", "aura_t5.AuraT5Model"),
    "Chroma": Family("pixart_t5.PixArtTokenizer", "pixart_t5.pixart_te"),
    "CogVideoX": Family("cogvideo.CogVideoXTokenizer", "cogvideo.cogvideo_te"),
    "Cosmos": Family("cosmos.CosmosT5Tokenizer", "cosmos.te"),
    "Mochi": Family("genmo.MochiT5Tokenizer", "genmo.mochi_te"),
    "LTX": Family("lt.LTXVT5Tokenizer", "lt.ltxv_te"),
    "Wan": Family("wan.WanT5Tokenizer", "wan.te", umt5),
    "Anima": Family("anima.AnimaTokenizer", "anima.te"),
    "Lumina 2": Family("lumina2.LuminaTokenizer", "lumina2.te", gemma),
    "NetaYume": Family("lumina2.NTokenizer", "lumina2.te", gemma, making={"model_type": "gemma3_4b"}),
    "NewBie": Family("newbie.NewBieTokenizer", "newbie.te", newbie),
    "PixelDiT": Family("pixeldit.PixelDiTGemma2Tokenizer", "pixeldit.pixeldit_te", gemma),
    "Z-Image": Family("z_image.ZImageTokenizer", "z_image.te"),
    "Qwen-Image": Family("qwen_image.QwenImageTokenizer", "qwen_image.te"),
    "Mage-Flow": Family("mage_flow.MageFlowTokenizer", "mage_flow.te"),
    "Krea 2": Family("krea2.Krea2Tokenizer", "krea2.te"),
    "JoyImage": Family("joyimage.JoyImageTokenizer", "joyimage.te"),
    "Boogu": Family("boogu.BooguTokenizer", "boogu.te"),
    "Ideogram 4": Family("ideogram4.Ideogram4Tokenizer", "ideogram4.te"),
    "OmniGen 2": Family("omnigen2.Omnigen2Tokenizer", "omnigen2.te"),
    "Ovis": Family("ovis.OvisTokenizer", "ovis.te"),
    "LongCat": Family("longcat_image.LongCatImageTokenizer", "longcat_image.te"),
    "HunyuanImage": Family("hunyuan_image.HunyuanImageTokenizer", "hunyuan_image.te"),
    "HunyuanVideo": Family("hunyuan_video.HunyuanVideoTokenizer", "hunyuan_video.hunyuan_video_clip"),
    "HunyuanVideo 1.5": Family("hunyuan_video.HunyuanVideo15Tokenizer", "hunyuan_image.te"),
    "Kandinsky 5": Family("kandinsky5.Kandinsky5Tokenizer", "kandinsky5.te"),
    "Kandinsky 5 Image": Family("kandinsky5.Kandinsky5TokenizerImage", "kandinsky5.te"),
    "HiDream": Family("hidream.HiDreamTokenizer", "hidream.hidream_clip"),
    "HiDream-O1": Family("hidream_o1.HiDreamO1Tokenizer", "hidream_o1.HiDreamO1TE"),
    "Lens": Family("gpt_oss.LensTokenizer", "gpt_oss.lens_te", gpt_oss, {"txt_offset": 312}),
    "MiniMax H3": Family("minimax.MiniMaxH3Tokenizer", "minimax.te"),
    "Ernie": Family("ernie.ErnieTokenizer", "ernie.te", tekken),
    "HunyuanDiT": Family("hydit.HyditTokenizer", "hydit.HyditModel", mt5),
}


def _load(loader: Any, *args, **kwargs) -> Any:
    return loader(*args, **kwargs)


_load_once = functools.cache(_load)  # a tokenizer takes up to half a second


@functools.cache
def clip(name: str, embeddings: str | None = None, **options: bool) -> comfy.sd.CLIP:
    """An encoder in which a column of the conditioning is the number of its token.

    embeddings: a folder of textual inversion files. options: what makes the model.
    """
    family = FAMILIES[name]
    tokenizer, model = (
        pkgutil.resolve_name(f"comfy.text_encoders.{path.replace('.', ':')}")
        for path in (family.tokenizer, family.model)
    )
    if not isinstance(model, type):
        model = model(**family.making, **options)
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(comfy.text_encoders.flux, "load_mistral_tokenizer", load_tekken))
        for loader in (transformers.CLIPTokenizer, transformers.T5TokenizerFast, transformers.Qwen2Tokenizer):
            once = functools.partial(_load_once, loader.from_pretrained)
            patches.enter_context(mock.patch.object(loader, "from_pretrained", once))
        built = comfy.sd.CLIP(
            ClipTarget(tokenizer, model), tokenizer_data=family.data(), disable_dynamic=True,
            embedding_directory=embeddings,
            model_options={"initial_device": torch.device("meta"), **family.options},
        )
    for part in list(built.cond_stage_model.modules()):
        if hasattr(part, "transformer"):
            part.transformer = Echo(4096 if name == "SD3" else 1)  # the host joins SD3's parts at this width
            part.to("cpu")
    return built
