"""Regional Prompts in the host: texts joined in each model call, and attention that gives every place its own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from comfy.conds import CONDConstant
from torch import Tensor

from ...attention_hooks.edits import Edit
from ...attention_hooks.families import Family, every_layer, layers_at, model_family, model_layers
from ...attention_hooks.observe import JOINED, Call
from ...attention_hooks.token_maps import Where
from ...attention_hooks.weigh import edited
from ...guidance.regions import prompt_shares
from ..conds import REGIONS_KEY, active_conds, sides, text_length
from ..processing import Processing
from ..region_record import RegionRecord
from ..run import PREFIX, Evaluation, Run, SigmaRange
from .edit import RegionalEdit, Shares
from .places import Places
from .region import NODE, Region
from .seen import Seen, faults
from .snap import SNAPS
from .texts import UNUSED, Texts, check_base, join, joined

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider

log = logging.getLogger(__name__)
APART = f"{PREFIX}.regional"  # what a cond has beside its text so that the host calls a model for it alone


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
        self.seen = Seen(regions)
        for number, region in enumerate(regions, start=1):
            for said in dict.fromkeys(name for key, name in UNUSED.items() if key in region.conditioning[0][1]):
                self.warn_once(f"the conditioning of region {number} has {said}, which a region does not use: only the "
                               "base prompt's acts.")
        if settings.isolate and self.family.kind != "joint":
            self.warn_once(f"isolate does nothing in {self.family.name}, whose text and picture do not attend jointly.")

    def begin_run(self, processing: Processing) -> None:
        """Process the prompts of the regions for this latent."""
        guider = processing.guider
        self.conds = [
            (conds, cond) for conds in guider.conds.values() for cond in conds if cond.get(REGIONS_KEY) == self.mark
        ]
        if not self.conds:
            raise ValueError(
                f"{NODE}: no prompt of this run comes from this node. Connect the conditioning that it gives to the "
                "sampler, in the place of the one it got."
            )
        self.texts: Texts = join(self.regions, self.family, processing)
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
            for fault in faults(self.regions, now, self.layers, x.shape[2:]):
                self.warn_once(fault)
        own = {cond["uuid"] for _, cond in self.conds}
        lists = {id(conds): conds for conds, _ in self.conds}.values()
        self.active = {
            item.uuid: item for conds in lists for item in active_conds(conds, x, evaluation.cpu_sigma)
            if item.uuid in own
        }

    def change_text(
        self, text: Tensor | None, extra: dict[str, Any], transformer_options: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any], dict[str, Any]]:
        """With the regions' prompts where they act."""
        theirs = [self.acts and uuid in self.active for uuid in transformer_options.get("uuids", [])]
        if not any(theirs):
            return text, extra, transformer_options
        if JOINED in transformer_options:
            raise ValueError(
                f"{NODE}: another node joins words to the prompt in this model: Word Strength, below 0 or with a mask. "
                "Leave one of the two out."
            )
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
                f"{NODE}: the model was called for {sides(call.size)} of a latent of {sides(places.shape[2:])}. "
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
        self.seen.note(self.now, self.batch, evaluation)
        self.places.end(self.conds[0][0])

    def finish(self, samples: Tensor) -> None:
        for phrase in self.places.unseen():
            self.warn_once(f'the model saw "{phrase}" nowhere, so that a region of it had no place.')
        for number in self.places.kept:
            self.warn_once(f"the words of region {number + 1} stood out nowhere in its box, which stays as it is.")
        regions = self.seen.regions_of(samples, self.downscale)
        if regions is None:
            self.warn_once("no step of this run is between start_percent and end_percent, so that nothing was changed.")
            return
        self.record.add(regions)
        log.info("%s: %s; acted in %d of %d layers, steps %d-%d.", NODE, self.seen.summary(), len(self.edit.acted),
                 self.edit.layers, regions.steps[0].step + 1, regions.steps[-1].step + 1)
