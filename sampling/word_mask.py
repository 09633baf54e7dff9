"""Where the model sees a word: the attention of one model call on a noised latent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.sample
import torch
import torch.nn.functional as F
from comfy.samplers import KSAMPLER, CFGGuider, calc_cond_batch
from torch import Tensor

from ..attention_hooks.families import layers_at, model_family, model_layers
from ..attention_hooks.observe import Call
from ..attention_hooks.token_maps import Capture, Wanted
from ..guidance.attention_maps import Completion
from ..words.phrases import check_phrases, phrase_columns
from ..words.prompt import CONDITIONING_KEY
from .conds import ActiveCond, active_conds, text_length
from .run import Evaluation, Run, add_run, without_runs

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

NODE = "Word Mask"
DOWNSAMPLE = 2  # found words best in the measurement of tests/sticker_world/word_masks.py


class WordMap(NamedTuple):
    """Where one phrase is seen, for each latent image, at the latent's size, on the CPU."""

    phrase: str
    attention: Tensor  # [B, H, W]; 1 is the phrase's mean over the picture
    share: Tensor  # [B, H, W]; the part that the prompts with this phrase have in the result, 0..1


class _OneCall(CFGGuider):
    """Evaluates its only prompt, without guidance, so that no other node's guidance adds model calls."""

    def predict_noise(self, x, timestep, model_options, seed):
        return calc_cond_batch(self.inner_model, [self.conds["positive"]], x, timestep, model_options)[0]


@torch.no_grad()
def _one_call(model, x, sigmas, extra_args, callback, disable):
    return model(x, sigmas[0].expand(x.shape[0]), **extra_args)


class _WordRun(Run):
    """The one call: gathers the token maps of the prompts that have one of the phrases."""

    def __init__(self, capture: Capture, phrases: list[str]):
        self.capture = capture
        self.phrases = phrases
        self.active: list[ActiveCond] = []

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.active = active_conds(guider.conds["positive"], evaluation.x, evaluation.sigma)
        wanted = {
            item.uuid: Wanted(tokens=True, foreground=False, length=text_length(item.cond))
            for item in self.active
            if any(_columns(item.cond, phrase) for phrase in self.phrases)
        }
        self.capture.begin(wanted, evaluation.x.shape[0])

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return self.capture.watch_forward(call, transformer_options)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        self.capture.end_forward(call, transformer_options)

    def finish(self, samples: Tensor) -> None:
        self.maps = [self._word_map(phrase) for phrase in self.phrases]

    def _word_map(self, phrase: str) -> WordMap:
        attention, share = [], []
        for item in self.active:
            columns = _columns(item.cond, phrase)
            if columns and item.share.any():
                tokens = self.capture.maps(item.uuid, item.size).tokens[:, list(columns)].mean(dim=1, keepdim=True)
                whole = torch.zeros_like(item.share)
                whole[(..., *item.view)] = F.interpolate(tokens, item.size, mode="bilinear")
                attention.append(item.share * whole)
                share.append(item.share)
        if not share:
            raise ValueError(
                f'{NODE}: the prompt with "{phrase}" does not act at this noise level: its timestep range or its mask '
                "leaves nothing. Change noise_level, or connect the prompt without its range."
            )
        total = sum(share)
        return WordMap(phrase, (sum(attention) / total.clamp_min(1e-8))[:, 0].cpu(), total[:, 0].cpu())


def word_maps(
    model: ModelPatcher, conditioning: list, latent: dict[str, Any], phrases: list[str], noise_level: float,
    completion: Completion, downsample: int = DOWNSAMPLE, seed: int = 0,
) -> list[WordMap]:
    """Call the model once on the latent with noise, and return the map of each phrase.

    noise_level: the share of the noise schedule, 0 (sigma_min) to 1 (sigma_max). A phrase's map is the mean over its
    tokens of S-CFG's renormalised token maps. Where several prompts contain it, they count as they do in sampling.
    Raises ValueError for a phrase that no prompt contains, and for a model whose attention cannot be read.
    """
    family = model_family(model, NODE)
    downsample, chosen = layers_at(family, model_layers(model, NODE), downsample)
    check_phrases(conditioning, phrases, NODE)

    model = without_runs(model)
    run = _WordRun(Capture(NODE, family, chosen, downsample, completion), phrases)
    add_run(model, lambda guider, sigmas: run)
    guider = _OneCall(model)
    guider.inner_set_conds({"positive": conditioning})

    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], latent.get("downscale_ratio_spacial"))
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    sigmas = torch.tensor([noise_sigma(model, noise_level), 0.0])
    guider.sample(noise, samples, KSAMPLER(_one_call), sigmas, latent.get("noise_mask"), disable_pbar=True, seed=seed)
    return run.maps


def noise_sigma(model: ModelPatcher, noise_level: float) -> float:
    """The sigma at a share of the noise schedule, kept within the range that the model was trained for."""
    model_sampling = model.get_model_object("model_sampling")
    sigma = model_sampling.percent_to_sigma(1 - noise_level)
    return min(max(float(sigma), float(model_sampling.sigma_min)), float(model_sampling.sigma_max))


def _columns(cond: dict[str, Any], phrase: str) -> tuple[int, ...]:
    return phrase_columns(cond.get(CONDITIONING_KEY), text_length(cond), phrase)
