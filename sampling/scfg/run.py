"""S-CFG in the host: maps from the model's attention, rates from the post-CFG function's predictions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...attention_hooks.families import Layer, layers_at, model_layers
from ...attention_hooks.observe import Call
from ...attention_hooks.token_maps import Capture, Wanted
from ...guidance import scfg
from ...guidance.attention_maps import Completion, enlarge
from ...words.phrases import token_labels
from ...words.prompt import CONDITIONING_KEY
from ..conds import active_conds, text_length
from ..record import fingerprint
from ..run import Evaluation, Run, SigmaRange, add_run, current_run
from .regions import Region, RegionRecord, Regions, RegionStep

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

log = logging.getLogger(__name__)
NODE = "S-CFG"


class Settings(NamedTuple):
    strength: float = 1.0
    rate_min: float = 0.8
    rate_max: float = 3.0
    scale_cap: float = 15.0
    completion: Completion = "as released"
    whole_image: bool = False
    downsample: int | None = None  # of the finest grid read
    start_percent: float = 0.0
    end_percent: float = 1.0


class _Mask(NamedTuple):
    """The regions of one evaluation."""

    regions: Tensor  # [B, n, H, W], weights that sum to 1 over n
    names: list[Region]


class SCFGRun(Run):
    """One sampling run with S-CFG; hands what it saw to `record` when it ends well."""

    def __init__(
        self, guider: CFGGuider, layers: list[Layer], settings: Settings, record: RegionRecord
    ):
        downsample, chosen = layers_at(layers, settings.downsample)
        self.settings = settings
        self.record = record
        self.capture = Capture(NODE, chosen, downsample, settings.completion)
        self.range = SigmaRange(guider.model_patcher, settings.start_percent, settings.end_percent)
        self.seen: dict[float, RegionStep] = {}  # by sigma; the last evaluation at a sigma counts
        self.regions: dict[Region, int] = {}
        self.cfg_scale = 0.0
        self.downscale = guider.model_patcher.model.latent_format.spacial_downscale_ratio
        self.warned: set[str] = set()

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.acts = evaluation.sigma_value in self.range
        wanted = wanted_conds(guider, foreground=not self.settings.whole_image) if self.acts else {}
        self.capture.begin(wanted, evaluation.x.shape[0])

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return self.capture.watch_forward(call, transformer_options)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        self.capture.end_forward(call, transformer_options)

    def finish(self, samples: Tensor) -> None:
        # Samplers that evaluate a step more than once start at its sigma, the highest.
        first: dict[int, RegionStep] = {}
        for seen in sorted(self.seen.values(), key=lambda seen: -seen.sigma):
            first.setdefault(seen.step, seen)
        if first:
            steps = tuple(first.values())
            self.record.add(Regions(tuple(self.regions), steps, self.cfg_scale, self.downscale, fingerprint(samples)))

    def warn_once(self, message: str) -> None:
        if message not in self.warned:
            self.warned.add(message)
            log.warning("%s: %s", NODE, message)

    def guide(self, args: dict[str, Any]) -> Tensor:
        """The host's post-CFG function: denoised [B, C, H, W] -> denoised with a scale for every region."""
        sigma, x, denoised = args["sigma"], args["input"], args["denoised"]
        if not self.acts:
            return denoised
        if not args["uncond"]:
            self.warn_once("the sampler does not use the negative prompt (cfg 1), so there is no guidance to change.")
            return denoised
        cond, uncond, cfg_scale = args["cond_denoised"], args["uncond_denoised"], args["cond_scale"]
        reference = self._reference(args["uncond"], x, sigma)
        mask = self._mask(args["cond"], x, sigma)
        if reference is None or mask is None:
            self.warn_once("a prompt is switched off by its timestep range; plain CFG is used meanwhile.")
            return denoised
        settings = self.settings
        rates = scfg.region_rates(cond - uncond, mask.regions, reference)
        rate = scfg.rate_map(rates, mask.regions, cfg_scale, settings.rate_min, settings.rate_max, settings.scale_cap)
        rate = 1 + settings.strength * (rate - 1)
        self._record(cfg_scale, mask, rates, rate)
        return scfg.guide(denoised, cond, uncond, rate, cfg_scale) if settings.strength else denoised

    def _reference(self, uncond: list[dict], x: Tensor, sigma: Tensor) -> Tensor | None:
        """[B, 1, H, W]: the foreground as the negative prompts see it, or the whole image."""
        size = tuple(x.shape[-2:])
        active = active_conds(uncond, x, sigma)
        if not active:
            return None
        if self.settings.whole_image:
            return x.new_ones((x.shape[0], 1, *size), dtype=torch.float32)
        reference = x.new_zeros((x.shape[0], 1, *size), dtype=torch.float32)
        for item in active:
            pair = self.capture.maps(item.uuid, item.size).foreground.to(x.device)
            view = (..., *item.view)
            reference[view] += item.share[view] * enlarge(scfg.foreground(pair), item.size)
        return reference

    def _mask(self, conds: list[dict], x: Tensor, sigma: Tensor) -> _Mask | None:
        masks, names = [], []
        for item in active_conds(conds, x, sigma):
            number = next(number for number, cond in enumerate(conds) if cond is item.cond)
            won = scfg.assign_tokens(self.capture.maps(item.uuid, item.size).tokens).to(x.device)
            columns = won.any(dim=(0, 2, 3)).nonzero().flatten().tolist()
            mask = item.share.new_zeros((x.shape[0], len(columns), *x.shape[-2:]))
            mask[(..., *item.view)] = enlarge(won[:, columns], item.size)
            masks.append(mask * item.share)
            labels = token_labels(item.cond.get(CONDITIONING_KEY), text_length(item.cond))
            names += [Region(number, column, labels[column]) for column in columns]
        return _Mask(torch.cat(masks, dim=1), names) if masks else None

    def _record(self, cfg_scale: float, mask: _Mask, rates: Tensor, rate: Tensor) -> None:
        rows = [self.regions.setdefault(name, len(self.regions)) for name in mask.names]
        owner = torch.tensor(rows, dtype=torch.int16)[mask.regions.argmax(dim=1).cpu()]
        table = torch.zeros((rates.shape[0], len(self.regions)))
        table[:, rows] = rates.cpu()
        sigma, step = self.evaluation.sigma_value, self.evaluation.step
        self.seen[sigma] = RegionStep(step, sigma, owner, table, rate[:, 0].half().cpu())
        self.cfg_scale = float(cfg_scale)


def wanted_conds(guider: CFGGuider, foreground: bool) -> dict[Any, Wanted]:
    """Token maps for every cond but the negative, the foreground for every cond but the positive.

    Guiders with more prompts than these two decide at each step which of them they compare, so both are gathered.
    """
    wanted = {}
    for name, conds in guider.conds.items():
        for cond in conds:
            length = text_length(cond)
            item = Wanted(name != "negative", foreground and name != "positive", length or 0)
            if length is not None and (item.tokens or item.foreground):
                wanted[cond["uuid"]] = item
    return wanted


def patch_scfg(model: ModelPatcher, settings: Settings) -> tuple[ModelPatcher, RegionRecord]:
    """A clone of `model` that samples with S-CFG, and the record of the regions that its runs will see."""
    layers = model_layers(model, NODE)
    layers_at(layers, settings.downsample)  # says now, not while sampling, that a model lacks the grid
    record = RegionRecord()

    model = model.clone()
    key = add_run(model, lambda guider, sigmas: SCFGRun(guider, layers, settings, record))

    def post_cfg(args: dict[str, Any]) -> Tensor:
        run = current_run(args["model_options"], key)
        if run is None:
            raise ValueError(f"{NODE}: this sampler does not use the host's guider, so attention cannot be read.")
        return run.guide(args)

    model.set_model_sampler_post_cfg_function(post_cfg)
    return model, record
