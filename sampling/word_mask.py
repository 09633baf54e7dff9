"""Where the model sees a word: the attention of one model call on a noised latent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.sample
import torch
from comfy.samplers import KSAMPLER, CFGGuider, calc_cond_batch
from torch import Tensor

from ..attention_hooks.families import Family, layers_at, model_family, model_layers
from ..attention_hooks.observe import Call
from ..attention_hooks.token_maps import Capture, Wanted
from ..guidance.attention_maps import Completion, enlarge, resize
from ..words.phrases import check_phrases
from .conds import ActiveCond, active_conds
from .prompt_text import prompt_text
from .run import Evaluation, Run, add_run, without_runs

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

NODE = "Word Mask"
DOWNSAMPLE = 2  # found words best in the measurement of tests/sticker_world/word_masks.py


class WordMap(NamedTuple):
    """Where one phrase is seen, in each latent [B, C, *size] at its size, on the CPU."""

    phrase: str
    attention: Tensor  # [B, *size]; 1 is the phrase's mean over the picture or clip
    share: Tensor  # [B, *size]; the part that the prompts with this phrase have in the result, 0..1


class _OneCall(CFGGuider):
    """Evaluates its only prompt, without guidance, so that no other node's guidance adds model calls."""

    def predict_noise(self, x, timestep, model_options, seed):
        return calc_cond_batch(self.inner_model, [self.conds["positive"]], x, timestep, model_options)[0]


@torch.no_grad()
def _one_call(model, x, sigmas, extra_args, callback, disable):
    return model(x, sigmas[0].expand(x.shape[0]), **extra_args)


class _WordRun(Run):
    """The one call: gathers the token maps of the prompts that have one of the phrases."""

    def __init__(self, family: Family, capture: Capture, phrases: list[str]):
        self.family = family
        self.capture = capture
        self.phrases = phrases
        self.active: list[ActiveCond] = []
        self.columns: dict[Any, dict[str, tuple[int, ...]]] = {}  # of each phrase, by the uuid of the cond
        self.wanted: dict[Any, Wanted] = {}

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.active = active_conds(guider.conds["positive"], evaluation.x, evaluation.sigma)
        for item in self.active:
            text = prompt_text(item.cond, self.family)
            found = {phrase: text.find(phrase) for phrase in self.phrases} if text else {}
            every = sorted({column for columns in found.values() for column in columns})
            if text and every:
                columns = tuple(range(text.length) if self.family.kind == "unet" else every)
                self.wanted[item.uuid] = Wanted(True, False, text.length, columns, text.compared)
                self.columns[item.uuid] = found
        self.capture.begin(self.wanted, evaluation.x.shape[0])

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return self.capture.watch_forward(call, transformer_options)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        self.capture.end_forward(call, transformer_options)

    def finish(self, samples: Tensor) -> None:
        self.maps = [self._word_map(phrase) for phrase in self.phrases]

    def _word_map(self, phrase: str) -> WordMap:
        attention, share = [], []
        for item in self.active:
            columns = self.columns.get(item.uuid, {}).get(phrase)
            if columns and item.share.any():
                places = [self.wanted[item.uuid].columns.index(column) for column in columns]
                tokens = self.capture.maps(item.uuid, item.size).tokens[:, places].mean(dim=1, keepdim=True)
                whole = torch.zeros_like(item.share)
                whole[(..., *item.view)] = enlarge(resize(tokens, item.size[-2:]), item.size)
                attention.append(item.share * whole)
                share.append(item.share)
        if not share:
            raise ValueError(
                f'{NODE}: the prompt with "{phrase}" does not act at this noise level: its timestep range or its mask '
                "leaves nothing. Change noise_level, or connect the prompt without its range."
            )
        total = sum(share)
        mean = sum(attention) / total.clamp_min(1e-8)
        return WordMap(phrase, mean[:, 0].float().cpu(), total[:, 0].float().cpu())


def word_maps(
    model: ModelPatcher, conditioning: list, latent: dict[str, Any], phrases: list[str], noise_level: float,
    completion: Completion, downsample: int | None = None, seed: int = 0,
) -> list[WordMap]:
    """Call the model once on the latent with noise, and return the map of each phrase.

    noise_level: the share of the noise schedule, 0 (sigma_min) to 1 (sigma_max). A phrase's map is the mean over its
    tokens of S-CFG's renormalised token maps. Where several prompts contain it, they count as they do in sampling.
    downsample: of the finest grid that is read of a UNet, None for DOWNSAMPLE; a transformer has only one.
    Raises ValueError for a phrase that no prompt contains, and for a model whose attention cannot be read.
    """
    family = model_family(model, NODE)
    if downsample is None and family.kind == "unet":
        downsample = DOWNSAMPLE
    downsample, chosen = layers_at(family, model_layers(model, NODE), downsample, NODE)
    check_phrases(conditioning, phrases, NODE)

    model = _without_reference(without_runs(model))
    run = _WordRun(family, Capture(NODE, family, chosen, downsample, completion), phrases)
    add_run(model, lambda guider, sigmas: run)
    guider = _OneCall(model)
    guider.inner_set_conds({"positive": conditioning})

    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], latent.get("downscale_ratio_spacial"))
    _check_latent(model, samples)
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    sigmas = torch.tensor([noise_sigma(model, noise_level), 0.0])
    guider.sample(noise, samples, KSAMPLER(_one_call), sigmas, latent.get("noise_mask"), disable_pbar=True, seed=seed)
    return run.maps


def _check_latent(model: ModelPatcher, samples: Tensor) -> None:
    latent_format = model.get_model_object("latent_format")
    channels, axes = latent_format.latent_channels, latent_format.latent_dimensions
    if samples.is_nested:
        raise ValueError(f"{NODE}: the latent has several parts, such as video with sound. Connect the video's alone.")
    if samples.ndim != 2 + axes or samples.shape[1] != channels:
        raise ValueError(
            f"{NODE}: the latent is {' x '.join(map(str, samples.shape))}, but this model's have {channels} channels "
            f"and {'frames, height and width' if axes == 3 else 'height and width'}. Connect what its own sampler "
            "returns, or VAE Encode with its VAE."
        )


def _without_reference(model: ModelPatcher) -> ModelPatcher:
    """A clone that no longer attends to the pictures of Reference Only nodes, which come with batches of their own."""
    model = model.clone()
    patches = model.model_options["transformer_options"].get("patches", {})
    for name, functions in patches.items():
        patches[name] = [f for f in functions if not getattr(f, "__qualname__", "").startswith("ReferenceOnly")]
    return model


def noise_sigma(model: ModelPatcher, noise_level: float) -> float:
    """The sigma at a share of the noise schedule, kept within the range that the model was trained for."""
    model_sampling = model.get_model_object("model_sampling")
    sigma = model_sampling.percent_to_sigma(1 - noise_level)
    return min(max(float(sigma), float(model_sampling.sigma_min)), float(model_sampling.sigma_max))
