"""Keep Apart in the host: each subject's words are taken away where the model sees another one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention_hooks.families import Family, every_layer, layers_at, model_family, model_layers
from ...attention_hooks.observe import Call
from ...attention_hooks.weigh import edited
from ...guidance.attention_maps import enlarge
from ...guidance.ownership import owned_shares, owners
from ...guidance.smoothing import smooth
from ...words.phrases import check_phrases
from ..attention_record import AttentionRecord
from ..conds import ActiveCond, active_conds
from ..processing import Processing
from ..prompt_text import phrase_places, prompt_text, refuse_doubled_text, refuse_shared_words
from ..record import fingerprint
from ..region_record import RegionRecord
from ..run import Evaluation, Run, SigmaRange, add_run
from .edit import KeepApartEdit
from .maps import SubjectMaps, SubjectText
from .record import ApartStep, ApartTrace, mean_shares
from .settings import NODE, Settings

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

log = logging.getLogger(__name__)
FEW = 8  # steps of a run that must not wait for the end of its first


class Records(NamedTuple):
    attention: AttentionRecord
    regions: RegionRecord


class KeepApartRun(Run):
    """One sampling run; hands what it saw to the records when it ends well."""

    node = NODE

    def __init__(self, guider: CFGGuider, sigmas: Tensor, settings: Settings, records: Records):
        model = guider.model_patcher
        conds = guider.conds.get("positive", [])
        check_phrases([(cond.get("cross_attn"), cond) for cond in conds], list(settings.words), NODE)
        refuse_doubled_text(model, NODE, "Leave out NegPip or this node.")
        self.family: Family = model_family(model, NODE)
        self.layers = every_layer(model, NODE)
        self.settings = settings
        self.records = records
        self.downscale = model.model.latent_format.spacial_downscale_ratio
        self.range = SigmaRange(model, settings.start_percent, settings.end_percent)
        self.maps = SubjectMaps(self.family, model_layers(model, NODE), settings.downsample, settings.memory)
        self.edit = KeepApartEdit(settings)
        self.texts: dict[Any, SubjectText] = {}  # by the uuid of the cond
        self.owners: dict[Any, Tensor] = {}  # [B, (T,) h, w], likewise; of the last step that was seen
        self.few = len(sigmas) - 1 <= FEW
        self.acts = float(sigmas[0]) in self.range
        self.kept: dict[Any, tuple[int, Tensor]] = {}  # owners that a first step has shown so far, of how many layers
        self.steps: dict[int, ApartStep] = {}
        self.shares: list[Tensor] = []

    def begin_run(self, processing: Processing) -> None:
        """Find the subjects in every positive prompt. ValueError where two share a word."""
        for cond in processing.guider.conds.get("positive", []):
            text = prompt_text(cond, self.family)
            if text is None:
                continue
            length, columns = phrase_places(cond, self.family, self.settings.words)
            refuse_shared_words(NODE, self.settings.words, columns, "Name each word once, with what belongs to it: "
                                "red balloon, green horse.")
            if any(columns):
                self.texts[cond["uuid"]] = SubjectText(length, text.compared, columns)
        self.edit.begin(self.texts, self.owners)  # other nodes may call the model before the first evaluation

    def reads_attention(self, evaluation: Evaluation) -> bool:
        return evaluation.sigma_value in self.range

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.acts = evaluation.sigma_value in self.range
        x = evaluation.x
        self.active = [
            item for item in active_conds(guider.conds.get("positive", []), x, evaluation.cpu_sigma)
            if self.acts and item.uuid in self.texts
        ]
        sizes = {item.uuid: item.size for item in self.active}
        self.maps.begin(self.texts, sizes, x.shape[0], tuple(x.shape[2:]))
        if self.family.kind == "joint":  # the device was waited for just now
            self.owners = {uuid: owner.cpu() for uuid, owner in self.owners.items()}
        self.kept = {}
        self.edit.begin(self.texts, self.owners, self.shown if self.few and not self.owners else None)

    def shown(self, uuid: Any) -> Tensor | None:
        """The owners that this evaluation itself shows so far."""
        layers, seen = self.maps.seen(uuid)
        if seen is not None and self.kept.get(uuid, (0,))[0] != layers:
            self.kept[uuid] = layers, owners(seen, self.settings.threshold)
        return self.kept[uuid][1] if uuid in self.kept else None

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        return self.maps.watch_forward(call, transformer_options)

    def edit_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        if not self.acts or self.texts.keys().isdisjoint(transformer_options.get("uuids", [])):
            return transformer_options
        return edited(transformer_options, self.family, call, self.layers, self.edit)

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        self.maps.end_forward(call, transformer_options)

    def end_evaluation(self, evaluation: Evaluation, denoised: Tensor) -> None:
        acted = bool(self.owners or self.kept) and self.settings.strength > 0
        seen = self.maps.learn(evaluation.step)
        if not seen:
            return
        self.owners = {uuid: owners(maps, self.settings.threshold) for uuid, maps in self.maps.running.items()}
        self.edit.begin(self.texts, self.owners)
        self.steps = {number: step._replace(maps=step.maps[..., :0]) for number, step in self.steps.items()}
        shown = [item for item in self.active if item.uuid in seen]
        self.steps[evaluation.step] = step = self._step(shown, seen, evaluation, acted)
        self.shares.append(owned_shares(step.owner, len(self.settings.words)))

    def _step(
        self, active: list[ActiveCond], seen: dict[Any, Tensor], evaluation: Evaluation, acted: bool
    ) -> ApartStep:
        """All prompts together: a place belongs to the owner in the prompt that has the most of it."""
        x, words = evaluation.x, len(self.settings.words)
        first = seen[active[0].uuid]
        whole = torch.zeros((len(x), *x.shape[2:]), dtype=torch.int16, device=x.device)
        most = torch.zeros(whole.shape, device=x.device)
        peaks = first.new_full((len(x), words), -torch.inf)
        maps = first.new_zeros((len(x), words, *first.shape[-2:]))
        for item in active:
            view, text = (slice(None), *item.view), self.texts[item.uuid]
            share = item.share[:, 0][view].to(most)
            owner = enlarge(self.owners[item.uuid][:, None], item.size)[:, 0].to(whole)
            ahead = share > most[view]
            whole[view] = torch.where(ahead, owner, whole[view])
            most[view] = torch.where(ahead, share, most[view])
            blurred = smooth(seen[item.uuid])
            highest = blurred.flatten(2).amax(dim=2)
            for number, columns in enumerate(text.columns):
                if columns:
                    peaks[:, number] = torch.maximum(peaks[:, number], highest[:, number])
            frames = blurred.flatten(2, -3).amax(dim=2) if blurred.ndim > 4 else blurred
            maps = torch.maximum(maps, F.interpolate(frames, maps.shape[-2:], mode="bilinear"))
        peaks = peaks.masked_fill(peaks.isinf(), torch.nan)
        return ApartStep(evaluation.step, evaluation.sigma_value, peaks, maps.half(), whole, acted)

    def finish(self, samples: Tensor) -> None:
        steps = tuple(step.cpu() for _, step in sorted(self.steps.items()))
        words = self.settings.words
        trace = ApartTrace(
            words, steps, len(self.schedule) - 1, mean_shares(self.shares, len(words)), len(self.edit.acted),
            len(self.layers), fingerprint(samples),
        )
        if not steps:
            self.warn_once(
                "nothing was kept apart: no prompt with these words acted between start_percent and end_percent, or "
                "another node replaces every attention layer that this node reads."
            )
            return
        log.info("%s: %s", NODE, trace.summary())
        for word in trace.without_place():
            self.warn_once(
                f'"{word}" owns no place at any step: the model sees it nowhere more than elsewhere. Raise emphasis, '
                "lower threshold, or use Attend-and-Excite."
            )
        if len(self.edit.acted) < len(self.layers):
            self.warn_once(
                f"acts in {len(self.edit.acted)} of {len(self.layers)} layers. In the others another node replaces "
                "attention, as IPAdapter and attention couple do, or computes something else in its place."
            )
        self.records.attention.add(trace)
        self.records.regions.add(trace.regions(self.settings.strength, self.downscale))


def patch_keep_apart(model: ModelPatcher, settings: Settings) -> tuple[ModelPatcher, Records]:
    """A clone of `model` that keeps these subjects apart, and the records of what its runs will do.

    Raises ValueError, with the reason, for fewer than two subjects, for models whose attention cannot be read, and for
    a grid that they lack.
    """
    records = Records(
        AttentionRecord(NODE, "strength above 0 or emphasis above 1"), RegionRecord(NODE, "a sampler")
    )
    if len(settings.words) < 2:
        named = f'"{settings.words[0]}" is the only subject' if settings.words else "no subjects are named"
        raise ValueError(
            f"{NODE}: {named}, and nothing else to keep it apart from. Name two or more, separated by commas: a horse, "
            "red balloon. For one alone use Word Strength."
        )
    family, layers = model_family(model, NODE), model_layers(model, NODE)
    layers_at(family, layers, settings.downsample, NODE)
    if not settings.acts:
        return model, records
    model = model.clone()
    add_run(model, lambda guider, sigmas: KeepApartRun(guider, sigmas, settings, records))
    return model, records
