"""Regional Prompts in the host: texts joined in each model call, and attention that gives every place its own."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from comfy.conds import CONDConstant
from comfy.model_management import is_oom
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...attention_hooks.edits import Edit
from ...attention_hooks.families import Family, every_layer, layers_at, model_family, model_layers
from ...attention_hooks.observe import JOINED, Call
from ...attention_hooks.token_maps import Where
from ...attention_hooks.weigh import edited
from ...guidance.regions import prompt_shares
from ..conds import REGIONS_KEY, active_conds, text_length
from ..post_cfg import name_of
from ..record import fingerprint
from ..region_record import Region as ShownRegion
from ..region_record import RegionRecord, Regions, RegionStep
from ..run import PREFIX, Evaluation, Run, SigmaRange, add_outermost, add_run, current_run
from .edit import RegionalEdit, Shares
from .places import Places
from .region import NODE, Region
from .snap import SNAPS
from .texts import UNUSED, Process, Texts, check_base, join, joined

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

log = logging.getLogger(__name__)
APART = f"{PREFIX}.regional"  # what a cond has beside its text so that the host calls a model for it alone
OTHER_TEXTS = {"HiDream": "its prompt in parts, of which only one can be joined"}  # by the name of the family
FEWEST_CELLS = 4  # of the coarsest grid, for a region


class Settings(NamedTuple):
    isolate: float = 0.0  # the share of blocks in which regions do not see each other
    isolate_until: float = 0.5
    snap: str = "off"
    start_percent: float = 0.0
    end_percent: float = 1.0


class RegionalRun(Run):
    """One sampling run with prompts for regions; hands what it saw to `record` when it ends well."""

    node = NODE

    def __init__(
        self, guider: CFGGuider, sigmas: Tensor, regions: tuple[Region, ...], settings: Settings, mark: str,
        record: RegionRecord,
    ):
        model = guider.model_patcher
        self.family: Family = model_family(model, NODE)
        self.layers = every_layer(model, NODE)
        self.regions = regions
        self.settings = settings
        self.mark = mark
        self.record = record
        self.range = SigmaRange(model, settings.start_percent, settings.end_percent)
        self.isolating = SigmaRange(model, 0.0, settings.isolate_until)
        self.places = Places(guider, regions, SNAPS[settings.snap], len(sigmas) - 1)
        self.downscale = model.model.latent_format.spacial_downscale_ratio
        self.edit = Edit(NODE)
        self.acts = False
        self.now: Tensor | None = None  # the places of all regions, [R, 1 or B, *size] on the CPU
        self.shares: dict[tuple[Any, Where], Shares] = {}  # of these places, by cond and part of the batch
        self.conds: list[tuple[list, dict[str, Any]]] = []  # the prompts of this node, each in its list
        self.seen: dict[float, RegionStep] = {}  # by sigma
        for number, region in enumerate(regions, start=1):
            for said in dict.fromkeys(name for key, name in UNUSED.items() if key in region.conditioning[0][1]):
                self.warn_once(f"the conditioning of region {number} has {said}, which a region does not use: only the "
                               "base prompt's acts.")
        if settings.isolate and self.family.kind != "joint":
            self.warn_once(f"isolate does nothing in {self.family.name}, whose text and picture do not attend jointly.")

    def prepare(
        self, guider: CFGGuider, noise: Tensor, latent_image: Tensor, denoise_mask: Tensor | None, seed: int
    ) -> None:
        """Once the host has processed its prompts: process those of the regions for this latent."""
        self.conds = [
            (conds, cond) for conds in guider.conds.values() for cond in conds if cond.get(REGIONS_KEY) == self.mark
        ]
        if not self.conds:
            raise ValueError(
                f"{NODE}: no prompt of this run comes from this node. Connect the conditioning that it gives to the "
                "sampler, in the place of the one it got."
            )
        process = Process(guider, noise, latent_image, denoise_mask, seed, self.latent_shapes)
        self.texts: Texts = join(self.regions, self.family, process)
        for _, cond in self.conds:
            check_base(cond, self.texts)
            self._check_length(guider, cond)
            if self.family.kind == "joint" and cond.get("reference_latents"):
                self.warn_once("reference images see the base prompt alone, whatever lies in their place.")
        layers = model_layers(guider.model_patcher, NODE)
        downsample, read = layers_at(self.family, layers, None, NODE)
        self.places.begin_run(
            guider, self.family, read, downsample, self.texts, [cond["uuid"] for _, cond in self.conds]
        )

    def _check_length(self, guider: CFGGuider, cond: dict[str, Any]) -> None:
        if not self.family.longest:
            return
        most = getattr(guider.inner_model.diffusion_model, self.family.longest)
        tokens = (text_length(cond) or 0) + self.texts.length
        if tokens > most:
            raise ValueError(
                f"{NODE}: {self.family.name} takes {most} tokens of text, and these prompts have {tokens} together. "
                "Shorten them, or leave some of the regions out."
            )

    def reads_attention(self, evaluation: Evaluation) -> bool:
        return evaluation.sigma_value in self.range

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.acts = evaluation.sigma_value in self.range
        self.places.begin(evaluation, self.acts)
        self.isolate = self.settings.isolate if evaluation.sigma_value in self.isolating else 0.0
        for _, cond in self.conds:
            if self.family.kind == "joint" and self.acts:
                cond["model_conds"][APART] = CONDConstant(self.mark)
            else:
                cond["model_conds"].pop(APART, None)
        if not self.acts:
            return
        x = evaluation.x
        self.batch = len(x)
        now = self.places.at(self.batch, x.shape[2:])
        if now is not self.now:
            self.now = now
            self.shares.clear()
            self.edit.kept.clear()
        if not self.seen:
            self._check_places()
        own = {cond["uuid"] for _, cond in self.conds}
        lists = {id(conds): conds for conds, _ in self.conds}.values()
        self.active = {
            item.uuid: item for conds in lists for item in active_conds(conds, x, evaluation.cpu_sigma)
            if item.uuid in own
        }

    def join(
        self, text: Tensor, extra: dict[str, Any], transformer_options: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
        """A model call's text, what else it gets, and its options, with the regions' prompts where they act."""
        theirs = [self.acts and uuid in self.active for uuid in transformer_options.get("uuids", [])]
        if not any(theirs):
            return text, extra, transformer_options
        return joined(self.texts, theirs, text, extra, transformer_options)

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return self.places.watch_forward(call, transformer_options)

    def edit_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        if JOINED not in transformer_options:
            return transformer_options
        where = Where.of(call, transformer_options, self.batch, self.layers, NODE)
        for own in self.active.keys() & set(transformer_options["uuids"]):
            if (own, where) not in self.shares:
                self.shares[own, where] = self._shares(call, where, own)
        shares = {own: self.shares[own, where] for own in self.active if (own, where) in self.shares}
        self.edit.layers = len(self.layers)
        joint = self.family.kind == "joint"
        edit = RegionalEdit(self.edit, self.regions, self.texts, shares, joint, self.isolate)
        return edited(transformer_options, self.family, call, self.layers, edit)

    def _shares(self, call: Call, where: Where, uuid: Any) -> Shares:
        """ValueError where the call does not show the part of the latent on which the cond acts."""
        item = self.active[uuid]
        places = self.now if where.frames is None else self.now[:, :, list(where.frames)]
        view = item.view if where.frames is None else (slice(None), *item.view[1:])
        places = places[(..., *view)]
        if places.shape[2:] != call.size:
            raise ValueError(
                f"{NODE}: the model was called for {_times(call.size)} of a latent of {_times(places.shape[2:])}. "
                "Nodes that sample a picture in tiles, or in context windows over its height or width, cannot be "
                "combined with this one."
            )
        if places.shape[1] > 1:
            places = places[:, list(where.images)]
        prompts = prompt_shares(places, [region.strength for region in self.regions])
        return Shares(text_length(item.cond) or 0, prompts, places)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        """ValueError where the model was called with the joined prompts, but every layer saw all or none of them."""
        self.places.end_forward(call, transformer_options)
        if JOINED in transformer_options and not self.edit.acted:
            raise ValueError(
                f"{NODE}: another node replaces or changes the attention of every layer, as those for attention "
                "couple, NegPip or NAG do, so that no place could get its own prompt. Remove that node."
            )

    def end_evaluation(self, evaluation: Evaluation, denoised: Tensor) -> None:
        if not self.acts:
            return
        self._record()
        self.places.end(self.conds[0][0])

    def _record(self) -> None:
        """Where each region has the largest part of a place, and the share that its prompt has there."""
        owner = prompt_shares(self.now, [1.0] * len(self.regions)).argmax(dim=0, keepdim=True)
        shares = prompt_shares(self.now, [region.strength for region in self.regions])
        share = shares.gather(0, owner).expand(-1, self.batch, *owner.shape[2:])[0]
        owner = owner[0].to(torch.int16).expand_as(share)
        rates = torch.tensor([[1.0, *(region.strength for region in self.regions)]]).expand(self.batch, -1)
        sigma = self.evaluation.sigma_value
        self.seen[sigma] = RegionStep(self.evaluation.step, sigma, owner, rates, share.half())

    def _check_places(self) -> None:
        """Warn of regions that can hardly act, in the first evaluation in which they do."""
        coarsest = min(self.layers, key=lambda layer: layer.positions(self.evaluation.x.shape[2:]))
        grid = coarsest.grid(self.evaluation.x.shape[2:])
        cells = self.now.flatten(2).mean(dim=(1, 2)) * grid[0] * grid[1] * grid[2] / grid[0]
        for number, (region, count) in enumerate(zip(self.regions, cells.tolist(), strict=True), start=1):
            if region.words:
                continue
            if not count:
                self.warn_once(f"region {number} has no place: its mask is empty, or the regions before it, which go "
                               "first, cover all of it. Move it forward in the chain, or make it larger.")
            elif count < FEWEST_CELLS:
                self.warn_once(f"region {number} covers {count:.1f} cells of the {grid[1]} x {grid[2]} of this model's "
                               "coarsest attention, so that it can hardly act. Make it larger.")
        base = prompt_shares(self.now, [region.strength for region in self.regions])[0]
        if not base.any():
            self.warn_once("the regions cover the whole picture with strength 1, so that nothing reads the base "
                           "prompt. Leave room for it, or lower a strength.")

    def finish(self, samples: Tensor) -> None:
        for phrase in self.places.unseen():
            self.warn_once(f'the model saw "{phrase}" nowhere, so that a region of it had no place.')
        for number in self.places.kept:
            self.warn_once(f"the words of region {number + 1} stood out nowhere in its box, which stays as it is.")
        if not self.seen:
            self.warn_once("no step of this run is between start_percent and end_percent, so that nothing was changed.")
            return
        first: dict[int, RegionStep] = {}  # samplers that evaluate a step more than once start at its sigma
        for seen in sorted(self.seen.values(), key=lambda seen: -seen.sigma):
            first.setdefault(seen.step, seen)
        names = [ShownRegion(0, 0, "base prompt"), *(
            ShownRegion(number, 0, name) for number, name in enumerate(self.names, start=1)
        )]
        regions = Regions(tuple(names), tuple(first.values()), self.downscale, fingerprint(samples), NODE)
        self.record.add(regions)
        log.info("%s: %s", NODE, self._summary(regions))

    @property
    def names(self) -> list[str]:
        return [region.name or f"region {number}" for number, region in enumerate(self.regions, start=1)]

    def _summary(self, regions: Regions) -> str:
        """One line: the mean share of each prompt in the last step, and where and when they acted."""
        last = prompt_shares(self.now, [region.strength for region in self.regions]).flatten(1).mean(dim=1).tolist()
        parts = [f"{name} {100 * share:.0f} %" for name, share in zip(["base prompt", *self.names], last, strict=True)]
        steps = [seen.step + 1 for seen in regions.steps]
        return (
            f"{', '.join(parts)} of the picture; acted in {len(self.edit.acted)} of {self.edit.layers} layers, "
            f"steps {steps[0]}-{steps[-1]}."
        )


def _times(size: Any) -> str:
    return " x ".join(map(str, size))


def patch_regional(
    model: ModelPatcher, conditioning: list, regions: tuple[Region, ...], settings: Settings
) -> tuple[ModelPatcher, list, RegionRecord]:
    """A clone of `model` and a conditioning, which together are sampled with these regions, and the runs' record.

    Raises ValueError for a model whose attention cannot be changed, and for a conditioning that has regions already.
    """
    record = RegionRecord(NODE, "a sampler, with the conditioning that it gives")
    family = model_family(model, NODE)
    if family.name in OTHER_TEXTS:
        raise ValueError(f"{NODE}: {family.name} reads {OTHER_TEXTS[family.name]}, so that regions cannot have prompts "
                         "of their own there. Use a model of another family.")
    if any(REGIONS_KEY in extra for _, extra in conditioning):
        raise ValueError(f"{NODE}: this conditioning has regions already. Chain all regions through previous, into one "
                         "Regional Prompts.")
    if not any(region.strength for region in regions):
        return model, conditioning, record
    model = model.clone()
    mark = uuid.uuid4().hex
    key = add_run(model, lambda guider, sigmas: RegionalRun(guider, sigmas, regions, settings, mark, record), True)

    def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None,
                       *args, **kwargs):
        run = current_run(extra_args["model_options"], key)
        if run is not None:
            run.prepare(guider, noise, latent_image, denoise_mask, extra_args.get("seed"))
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs)

    def apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs):
        kwargs.pop(APART, None)
        run = transformer_options.get(key)
        if run is not None:
            c_crossattn, kwargs, transformer_options = run.join(c_crossattn, kwargs, transformer_options)
        try:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs)
        except RuntimeError as error:
            patches = transformer_options.get("patches", {})
            names = ", ".join(dict.fromkeys(map(name_of, patches.get("attn2_patch", []))))
            if JOINED not in transformer_options or not names or is_oom(error):
                raise
            raise ValueError(
                f"{NODE}: another node changes the model's attention to the text ({names}), and the model fails with "
                f"the prompts of regions in it ({error}). Leave it or this node out."
            ) from error

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, PREFIX, sampler_sample)
    add_outermost(model, WrappersMP.APPLY_MODEL, apply_model)
    return model, [[text, {**extra, REGIONS_KEY: mark}] for text, extra in conditioning], record
