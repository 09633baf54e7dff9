"""S-CFG in the host: maps from the model's attention, rates from the post-CFG function's predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...attention_hooks.families import Family, layers_at, model_family, model_layers
from ...attention_hooks.layouts import Layer
from ...attention_hooks.observe import Call
from ...attention_hooks.token_maps import Capture, Wanted
from ...guidance import scfg
from ...guidance.attention_maps import Completion, enlarge
from ...guidance.precision import widen
from ..conds import ActiveCond, active_conds, are_alike
from ..post_cfg import Guidance, add_guidance, check_compared
from ..processing import Processing
from ..prompt_text import PromptText, prompt_text, word_columns
from ..record import fingerprint
from ..region_record import Region, RegionRecord, Regions, RegionStep, first_of_steps, met
from ..run import Evaluation, SigmaRange

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

NODE = "S-CFG"
AT_CFG_1 = (
    "the sampler does not use the negative prompt (cfg 1), so there is no guidance to change and this run is as it is "
    "without S-CFG. Use cfg 3 to 5 with a model made for it, not a Turbo, Lightning or other distilled one."
)
FLUX_GUIDANCE = " The number in FluxGuidance is an input of this model, not its cfg."


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


class _Prompt(NamedTuple):
    """The regions of one prompt in one evaluation."""

    partition: scfg.Partition
    first: int  # number of its first region among those of the run


class SCFGRun(Guidance):
    """One sampling run with S-CFG; hands what it saw to `record` when it ends well."""

    node = NODE

    def __init__(
        self, guider: CFGGuider, family: Family, layers: list[Layer], downsample: int, settings: Settings,
        record: RegionRecord,
    ):
        self.settings = settings
        self.record = record
        self.family = family
        self.whole_image = settings.whole_image or not family.chunk  # there is no start token to tell a background by
        self.texts: dict[Any, PromptText | None] = {}  # by uuid
        self.wanted: dict[Any, Wanted] = {}
        self.capture = Capture(NODE, family, layers, downsample, settings.completion)
        self.range = SigmaRange(guider.model_patcher, settings.start_percent, settings.end_percent)
        self.seen: dict[float, RegionStep] = {}  # by sigma; the last evaluation at a sigma counts; on the device
        self.regions: list[Region] = []  # every token column of the prompts met so far
        self.first: dict[int, int] = {}  # number of a prompt's first region, by the prompt's
        self.downscale = guider.model_patcher.model.latent_format.spacial_downscale_ratio
        self.guider = type(guider).__name__
        self.guidance_embed = bool(
            getattr(getattr(guider.model_patcher.model.diffusion_model, "params", None), "guidance_embed", False)
        )
        self.alike: dict[Any, Tensor] = {}  # whether a negative prompt's tokens are all the same, by uuid; [B or 1]

    def reads_attention(self, evaluation: Evaluation) -> bool:
        return evaluation.sigma_value in self.range

    def begin_run(self, processing: Processing) -> None:
        """Token maps of every cond but the negative, the foreground of every cond but the positive.

        Guiders with more prompts than these two decide at each step which of them they compare, so both are gathered.
        """
        for name, conds in processing.guider.conds.items():
            for cond in conds:
                text = self.texts[cond["uuid"]] = prompt_text(cond, self.family)
                if text is None:
                    continue
                columns = None if self.family.kind == "unet" else word_columns(cond, text)
                tokens = name != "negative" and columns != ()
                foreground = name != "positive" and not self.whole_image
                if tokens or foreground:
                    self.wanted[cond["uuid"]] = Wanted(tokens, foreground, text.length, columns, text.compared)
                if tokens and columns is not None and text.words is None:
                    self.warn_once("a prompt does not say which of its tokens are words, so that tokens of the text "
                                   "encoder's template may take regions. Encode it with Prompt with Words.")

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.acts = self.reads_attention(evaluation)
        self.capture.begin(self.wanted if self.acts else {}, evaluation.x.shape[0])

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return self.capture.watch_forward(call, transformer_options)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        self.capture.end_forward(call, transformer_options)

    def finish(self, samples: Tensor) -> None:
        if any(alike.any() for alike in self.alike.values()):
            self.warn_once("the negative prompt is zeroed out, so it sees no foreground; the whole image was the "
                           "reference instead.")
        first = first_of_steps(self.seen.values())
        if not first:
            return
        regions, steps = met(self.regions, [seen.on_cpu() for seen in first])
        self.record.add(Regions(regions, steps, self.downscale, fingerprint(samples)))

    def guide(self, args: dict[str, Any]) -> Tensor:
        x, denoised = args["input"], args["denoised"]
        if not self.acts:
            return denoised
        if args["uncond"] is None:
            self.warn_once(AT_CFG_1 + (FLUX_GUIDANCE if self.guidance_embed else ""))
            return denoised
        check_compared(NODE, self.guider, args)
        cond, uncond, cfg_scale = args["cond_denoised"], args["uncond_denoised"], args["cond_scale"]
        reference = self._reference(args["uncond"], x)
        prompts = self._prompts(args["cond"], x)
        if reference is None or not prompts:
            self.warn_once("a prompt is switched off by its timestep range; plain CFG is used meanwhile.")
            return denoised
        settings = self.settings
        partitions = [prompt.partition for prompt in prompts]
        rates = [scfg.region_rates(cond - uncond, partition, reference) for partition in partitions]
        rate = scfg.rate_map(rates, partitions, cfg_scale, settings.rate_min, settings.rate_max, settings.scale_cap)
        rate = 1 + settings.strength * (rate - 1)
        self._record(prompts, rates, rate)
        return scfg.guide(denoised, cond, uncond, rate, cfg_scale) if settings.strength else denoised

    def _active(self, conds: list[dict], x: Tensor) -> list[ActiveCond]:
        """The conds that the host has evaluated."""
        active = active_conds(conds, x, self.evaluation.cpu_sigma)
        return [item for item in active if "default" not in item.cond or self.capture.called(item.uuid)]

    def _reference(self, uncond: list[dict], x: Tensor) -> Tensor | None:
        """[B, 1, *size]: the foreground as the negative prompts see it, or the whole image."""
        active = self._active(uncond, x)
        if not active:
            return None
        shape = (x.shape[0], 1, *x.shape[2:])
        if self.whole_image:
            return widen(x).new_ones(shape)
        reference = widen(x).new_zeros(shape)
        for item in active:
            seen = scfg.foreground(self.capture.maps(item.uuid, item.size).foreground.to(x.device))
            if item.uuid not in self.alike:
                self.alike[item.uuid] = are_alike(item.cond)
            seen = seen | self.alike[item.uuid].to(x.device).view(-1, *[1] * (seen.ndim - 1))
            view = (..., *item.view)
            reference[view] += item.share[view] * enlarge(seen, item.size)
        return reference

    def _prompts(self, conds: list[dict], x: Tensor) -> list[_Prompt]:
        prompts = []
        for item in self._active(conds, x):
            number = next(number for number, cond in enumerate(conds) if cond is item.cond)
            owner = torch.zeros(item.share.shape, dtype=torch.int64, device=x.device)
            if item.uuid in self.wanted:
                maps = self.capture.maps(item.uuid, item.size).tokens.to(x.device)
                owner[(..., *item.view)] = enlarge(scfg.assign_tokens(maps), item.size)
            first, count = self._regions(number, item.uuid)
            prompts.append(_Prompt(scfg.Partition(owner, item.share, count), first))
        return prompts

    def _regions(self, number: int, uuid: Any) -> tuple[int, int]:
        """The place of a prompt's regions in the run's list, where they are entered when they are met, and how many.

        A prompt without words has one, of no word.
        """
        text, wanted = self.texts[uuid], self.wanted.get(uuid)
        if text is None or wanted is None:
            names = [Region(number, 0, "")]
        else:
            labels = text.labels()
            columns = range(text.length) if wanted.columns is None else wanted.columns
            names = [Region(number, column, labels[column]) for column in columns]
        if number not in self.first:
            self.first[number] = len(self.regions)
            self.regions += names
        return self.first[number], len(names)

    def _record(self, prompts: list[_Prompt], rates: list[Tensor], rate: Tensor) -> None:
        """Keep what this evaluation saw: of each position, the region of the prompt with the largest share."""
        strongest = torch.cat([prompt.partition.share for prompt in prompts], dim=1).argmax(dim=1, keepdim=True)
        owners = torch.cat([prompt.partition.owner + prompt.first for prompt in prompts], dim=1)
        table = rate.new_zeros((rate.shape[0], len(self.regions)), dtype=torch.float32)
        for prompt, values in zip(prompts, rates, strict=True):
            table[:, prompt.first : prompt.first + prompt.partition.regions] = values
        owner = owners.gather(1, strongest)[:, 0].to(torch.int16)
        sigma = self.evaluation.sigma_value
        self.seen[sigma] = RegionStep(self.evaluation.step, sigma, owner, table, rate[:, 0].half())


def patch_scfg(model: ModelPatcher, settings: Settings) -> tuple[ModelPatcher, RegionRecord]:
    """A clone of `model` that samples with S-CFG, and the record of the regions that its runs will see."""
    family = model_family(model, NODE)
    downsample, layers = layers_at(family, model_layers(model, NODE), settings.downsample, NODE)
    record = RegionRecord()

    model = model.clone()
    add_guidance(model, lambda guider, sigmas: SCFGRun(guider, family, layers, downsample, settings, record), NODE)
    return model, record
