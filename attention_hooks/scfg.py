"""S-CFG in the host: maps from the model's attention, rates from the post-CFG function's predictions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..guidance import scfg
from .capture import Capture, wanted_conds
from .conds import placed_conds, text_length
from .families import Layer, layers_at, model_layers
from .regions import Region, RegionRecord, Regions, RegionStep, latent_mark
from .run import SigmaRange, add_run, current_run, step_number
from .words import CONDITIONING_KEY, token_labels

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
    completion: scfg.Completion = "as released"
    whole_image: bool = False
    map_scale: int | None = None
    start_percent: float = 0.0
    end_percent: float = 1.0


class _Mask(NamedTuple):
    """The regions of one evaluation."""

    regions: Tensor  # [B, n, H, W], weights that sum to 1 over n
    names: list[Region]


class SCFGRun:
    """One sampling run with S-CFG; hands what it saw to `record` when it ends well."""

    def __init__(
        self, guider: CFGGuider, sigmas: Tensor, layers: list[Layer], settings: Settings, record: RegionRecord
    ):
        scale, chosen = layers_at(layers, settings.map_scale)
        self.settings = settings
        self.record = record
        self.capture = Capture(NODE, chosen, scale, settings.completion)
        self.range = SigmaRange(guider.model_patcher, settings.start_percent, settings.end_percent)
        self.sigmas = sigmas
        self.seen: dict[float, RegionStep] = {}  # by sigma; the last evaluation at a sigma counts
        self.regions: dict[Region, int] = {}
        self.scale = 0.0
        self.downscale = guider.model_patcher.model.latent_format.spacial_downscale_ratio
        self.warned: set[str] = set()

    def begin_evaluation(self, guider: CFGGuider, x: Tensor, sigma: float) -> None:
        wanted = wanted_conds(guider, foreground=not self.settings.whole_image) if sigma in self.range else {}
        self.capture.begin(wanted, x.shape[0])

    def watch_forward(self, x: Tensor, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return self.capture.watch_forward(x, transformer_options)

    def end_forward(self, x: Tensor, transformer_options: dict[str, Any]) -> None:
        self.capture.end_forward(x, transformer_options)

    def finish(self, samples: Tensor) -> None:
        # Samplers that evaluate a step more than once start at its sigma, the highest.
        first: dict[int, RegionStep] = {}
        for seen in sorted(self.seen.values(), key=lambda seen: -seen.sigma):
            first.setdefault(seen.step, seen)
        if first:
            steps = tuple(first.values())
            self.record.add(Regions(tuple(self.regions), steps, self.scale, self.downscale, latent_mark(samples)))

    def warn_once(self, message: str) -> None:
        if message not in self.warned:
            self.warned.add(message)
            log.warning("%s: %s", NODE, message)

    def guide(self, args: dict[str, Any]) -> Tensor:
        """The host's post-CFG function: denoised [B, C, H, W] -> denoised with a scale for every region."""
        sigma, x, denoised = args["sigma"], args["input"], args["denoised"]
        if float(sigma[0]) not in self.range:
            return denoised
        if not args["uncond"]:
            self.warn_once("the sampler does not use the negative prompt (cfg 1), so there is no guidance to change.")
            return denoised
        cond, uncond, scale = args["cond_denoised"], args["uncond_denoised"], args["cond_scale"]
        reference = self._reference(args["uncond"], x, sigma)
        mask = self._mask(args["cond"], x, sigma)
        if reference is None or mask is None:
            self.warn_once("a prompt is switched off by its timestep range; plain CFG is used meanwhile.")
            return denoised
        settings = self.settings
        rates = scfg.region_rates(cond - uncond, mask.regions, reference)
        rate = scfg.rate_map(rates, mask.regions, scale, settings.rate_min, settings.rate_max, settings.scale_cap)
        rate = 1 + settings.strength * (rate - 1)
        self._record(float(sigma[0]), scale, mask, rates, rate)
        return scfg.guide(denoised, cond, uncond, rate, scale) if settings.strength else denoised

    def _reference(self, uncond: list[dict], x: Tensor, sigma: Tensor) -> Tensor | None:
        """[B, 1, H, W]: the foreground as the negative prompts see it, or the whole image."""
        size = tuple(x.shape[-2:])
        placed = placed_conds(uncond, x, sigma)
        if not placed:
            return None
        if self.settings.whole_image:
            return x.new_ones((x.shape[0], 1, *size), dtype=torch.float32)
        reference = x.new_zeros((x.shape[0], 1, *size), dtype=torch.float32)
        for item in placed:
            pair = self.capture.maps(item).foreground.to(x.device)
            top, left, h, w = item.area
            view = (..., slice(top, top + h), slice(left, left + w))
            reference[view] += item.share[view] * scfg.enlarge(scfg.foreground(pair), (h, w))
        return reference

    def _mask(self, conds: list[dict], x: Tensor, sigma: Tensor) -> _Mask | None:
        placed = placed_conds(conds, x, sigma)
        masks, names = [], []
        for item in placed:
            number = next(number for number, cond in enumerate(conds) if cond is item.cond)
            won = scfg.assign_tokens(self.capture.maps(item).tokens).to(x.device)
            columns = won.any(dim=(0, 2, 3)).nonzero().flatten().tolist()
            top, left, h, w = item.area
            mask = item.share.new_zeros((x.shape[0], len(columns), *x.shape[-2:]))
            mask[..., top : top + h, left : left + w] = scfg.enlarge(won[:, columns], (h, w))
            masks.append(mask * item.share)
            labels = token_labels(item.cond.get(CONDITIONING_KEY), text_length(item.cond))
            names += [Region(number, column, labels[column]) for column in columns]
        return _Mask(torch.cat(masks, dim=1), names) if masks else None

    def _record(self, sigma: float, scale: float, mask: _Mask, rates: Tensor, rate: Tensor) -> None:
        rows = [self.regions.setdefault(name, len(self.regions)) for name in mask.names]
        owner = torch.tensor(rows, dtype=torch.int16)[mask.regions.argmax(dim=1).cpu()]
        table = torch.zeros((rates.shape[0], len(self.regions)))
        table[:, rows] = rates.cpu()
        self.seen[sigma] = RegionStep(step_number(sigma, self.sigmas), sigma, owner, table, rate[:, 0].half().cpu())
        self.scale = float(scale)


def patch_scfg(model: ModelPatcher, settings: Settings) -> tuple[ModelPatcher, RegionRecord]:
    """A clone of `model` that samples with S-CFG, and the record of the regions that its runs will see."""
    layers = model_layers(model, NODE)
    layers_at(layers, settings.map_scale)  # says now, not while sampling, that a model lacks the grid
    record = RegionRecord()

    model = model.clone()
    key = add_run(model, lambda guider, sigmas: SCFGRun(guider, sigmas, layers, settings, record))

    def post_cfg(args: dict[str, Any]) -> Tensor:
        run = current_run(args["model_options"], key)
        if run is None:
            raise ValueError(f"{NODE}: this sampler does not use the host's guider, so attention cannot be read.")
        return run.guide(args)

    model.set_model_sampler_post_cfg_function(post_cfg)
    return model, record
