"""Word Strength in the host: weights in attention above 1, in the text below, and both below 0."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from comfy.sampler_helpers import prepare_mask
from torch import Tensor

from ...attention_hooks.edits import Change, Edit
from ...attention_hooks.families import Family, every_layer, model_layers
from ...attention_hooks.observe import JOINED, Call
from ...attention_hooks.override import OVERRIDE, Override
from ...attention_hooks.probabilities import Attention
from ...attention_hooks.weigh import edited
from ..attention_record import AttentionRecord
from ..conds import STRENGTH_KEY, active_conds
from ..percent import Progress
from ..processing import Processing
from ..prompt_text import phrase_places, refuse_doubled_text
from ..record import fingerprint
from ..run import Evaluation, Run, SigmaRange
from .attention import WHOLE, Columns, Shares, StrengthEdit, heavier, lighter, turned
from .peaks import Peaks, highest
from .record import IN_TEXT, StrengthStep, StrengthTrace
from .settings import NODE, Settings
from .text_run import TEXT, differences, with_words_behind, without_words

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider

log = logging.getLogger(__name__)


class Prompt(NamedTuple):
    """A cond whose words have this strength."""

    length: int  # of its text
    columns: Columns
    differences: dict[str, Tensor]  # of what the model is called with, where the run changes the text

    @property
    def every(self) -> tuple[int, ...]:
        return tuple(sorted({column for phrase in self.columns for column in phrase}))


class StrengthRun(Run):
    """One sampling run; hands what it did to `record` when it ends well.

    family: None where attention is not touched, as all is done in the text.
    """

    node = NODE

    def __init__(
        self, guider: CFGGuider, settings: Settings, family: Family | None, mark: str, record: AttentionRecord
    ):
        model = guider.model_patcher
        if family is not None:
            refuse_doubled_text(model, NODE, "Leave out NegPip or this node; strengths below 0 steer away, too.")
        self.settings = settings
        self.mark = mark
        self.record = record
        self.family = family
        self.layers = [] if family is None else every_layer(model, NODE)
        self.peaks = None if family is None else Peaks(NODE, family, model_layers(model, NODE))
        self.in_place = family is not None and (family.kind == "joint" or family.mixes_text)
        self.progress = Progress(model.get_model_object("model_sampling"))
        self.range = SigmaRange(model, settings.start_percent, settings.end_percent)
        self.prompts: dict[Any, Prompt] = {}  # by the uuid of the cond
        self.mask: Tensor | None = None  # [B or 1, (T,) H, W] on the CPU
        self.views: dict[Any, tuple[slice, ...]] = {}  # of the conds, where there is a mask
        self.shares: dict[Any, Shares] = {}  # of what model calls are shown of the picture
        self.edit = Edit(NODE)  # what became of those of all forwards
        self.steps: dict[int, StrengthStep] = {}
        self.strength = 1.0
        self.called = False  # whether attention was, since there is something to change in it

    def at(self, sigma: float) -> float:
        return self.settings.at(self.progress.at(sigma)) if sigma in self.range else 1.0

    def begin_run(self, processing: Processing) -> None:
        """Find the conds that are this node's."""
        for cond in (cond for conds in processing.guider.conds.values() for cond in conds):
            known = cond.get(STRENGTH_KEY) or {}
            if self.mark in known:
                words, change = self.settings.words, known[self.mark]
                places = (0, ()) if self.family is None else phrase_places(cond, self.family, words)
                self.prompts[cond["uuid"]] = Prompt(
                    *places, {} if change is None else differences(processing, cond, change)
                )
        if not self.prompts:
            raise ValueError(
                f"{NODE}: the prompt that is sampled is not the one that this node gave. Connect the conditioning of "
                "this node to the sampler, directly or through nodes that keep it."
            )
        if self.family is not None and not any(prompt.every for prompt in self.prompts.values()):
            raise ValueError(
                f"{NODE}: {', '.join(self.settings.words)} is not where it was encoded: another node has changed the "
                "prompt. Put this node behind that one, or leave it out."
            )
        if self.settings.mask is not None:
            if len(self.latent_shapes) > 1:
                raise ValueError(f"{NODE}: a mask has no place in a latent of several parts, such as video with sound. "
                                 "Leave it out.")
            shape = (processing.noise.shape[0], 1, *processing.noise.shape[2:])
            self.mask = prepare_mask(self.settings.mask, shape, "cpu")[:, 0].clamp(0, 1)
            self.device = processing.noise.device

    def reads_attention(self, evaluation: Evaluation) -> bool:
        return self.family is not None and self.at(evaluation.sigma_value) != 1

    def begin_evaluation(self, guider: CFGGuider, evaluation: Evaluation) -> None:
        self.strength = self.at(evaluation.sigma_value)
        self.steps[evaluation.step] = StrengthStep(evaluation.step, self.strength, None, None)
        if self.mask is not None and self.strength != 1:
            active = [item for conds in guider.conds.values() if any(cond["uuid"] in self.prompts for cond in conds)
                      for item in active_conds(conds, evaluation.x, evaluation.cpu_sigma)]
            self.views = {item.uuid: item.view for item in active}

    def end_evaluation(self, evaluation: Evaluation, denoised: Tensor) -> None:
        maps = None if self.peaks is None else self.peaks.take()
        if maps is not None:
            self.steps = {number: step._replace(maps=None) for number, step in self.steps.items()}
            still = maps.amax(dim=2) if maps.ndim == 5 else maps
            self.steps[evaluation.step] = StrengthStep(evaluation.step, self.strength, highest(maps), still.half())

    @property
    def is_joined(self) -> bool:
        """Whether the text with all words follows that without: some queries, or some of its words, are to be seen."""
        return not self.in_place and (self.strength < 0 or (self.strength < 1 and self.mask is not None))

    def change_text(
        self, text: Tensor | None, extra: dict[str, Any], transformer_options: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any], dict[str, Any]]:
        """What the model is called with, with this moment's strength in the text."""
        uuids = transformer_options["uuids"]
        chunks = {chunk: self.prompts[uuid] for chunk, uuid in enumerate(uuids) if uuid in self.prompts}
        if self.strength >= 1 or text is None or not chunks:
            return text, extra, transformer_options
        if JOINED in transformer_options and self.is_joined:
            raise ValueError(
                f"{NODE}: another node joins prompts in this model, such as Regional Prompts or a Word Strength with "
                "a mask or below 0. Name all such words in one node, and leave regions out."
            )
        images = len(text) // len(uuids)
        own = text.shape[1] - transformer_options.get(JOINED, 0)
        given: dict[str, Any] = {TEXT: text[:, :own], **extra}
        rows = {chunk: slice(chunk * images, (chunk + 1) * images) for chunk in chunks}
        for chunk, prompt in chunks.items():
            for name, difference in prompt.differences.items():
                if isinstance(given.get(name), Tensor) and (name == TEXT or self.mask is None):
                    kept = prompt.every if self.in_place and self.strength < 0 and name == TEXT else ()
                    given[name] = without_words(given[name], rows[chunk], difference, 1 - max(self.strength, 0.0), kept)
        changed, options = torch.cat([given.pop(TEXT), text[:, own:]], dim=1), transformer_options
        if self.is_joined:
            changed, given, options = with_words_behind(changed, text, list(rows.values()), given, options)
        return changed, given, options

    def watch_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        if self.peaks is None or self.strength == 1:
            return transformer_options
        prompts = {uuid: (prompt.length, prompt.columns) for uuid, prompt in self.prompts.items() if prompt.every}
        return self.peaks.watch_forward(call, transformer_options, prompts)

    def edit_forward(self, call: Call, transformer_options: dict[str, Any]) -> dict[str, Any]:
        if self.family is None or self.strength == 1:
            return transformer_options
        changes = {}
        for uuid in transformer_options["uuids"]:
            change = self.change(uuid, call, transformer_options)
            if change is not None:
                changes[uuid] = change
        if not changes:
            return transformer_options
        self.edit.layers = len(self.layers)
        options = edited(transformer_options, self.family, call, self.layers, StrengthEdit(self.edit, changes))
        return {**options, OVERRIDE: Override.on(options).watched(self.note_call)}

    def note_call(self, transformer_options: dict[str, Any], attention: Attention) -> None:
        self.called = True

    def end_forward(self, call: Call, transformer_options: dict[str, Any]) -> None:
        if self.called and not self.edit.acted:
            raise ValueError(
                f"{NODE}: no layer's attention can be changed. Another node replaces it, as attention couple and NAG "
                "do, joins other prompts to the text, or divides the picture. Leave out that node or this one."
            )

    def change(self, uuid: Any, call: Call, transformer_options: dict[str, Any]) -> Change | None:
        """What attention is to become for one cond in this forward."""
        prompt = self.prompts.get(uuid)
        if prompt is None or not prompt.every:
            return None
        shares = self.shares_for(uuid, transformer_options)
        if self.strength > 1:
            return heavier(prompt.every, prompt.length, self.strength, shares.mask)
        if self.is_joined:
            return lighter(prompt.every, prompt.length, call.behind, self.strength, shares)
        return turned(prompt.every, prompt.length, self.strength) if self.strength < 0 else None

    def shares_for(self, uuid: Any, transformer_options: dict[str, Any]) -> Shares:
        """Of what this call holds of the picture for a cond: of its area, and of its context window."""
        window = transformer_options.get("context_window")
        own: list[int] = []
        if window is not None and window.dim in (0, 2):
            anchor = getattr(window, "causal_anchor_index", None)  # what the host puts before the window's own
            own = ([] if anchor is None else [anchor]) + list(window.index_list)
        view = self.views.get(uuid, ())
        key = (tuple((part.start, part.stop) for part in view), tuple(own))
        if key not in self.shares:
            self.shares[key] = Shares(WHOLE)
            if self.mask is not None:
                mask = self.mask[(slice(None), *view)]
                if own and window.dim == 2:
                    mask = mask[:, own]
                elif own and len(mask) > 1:
                    mask = mask[own]
                self.shares[key] = Shares(mask, 1 - mask, mask.to(self.device))
        return self.shares[key]

    def finish(self, samples: Tensor) -> None:
        paths = dict.fromkeys(how for how in self.edit.acted.values() if how)
        if self.settings.strength < 1:
            paths = {IN_TEXT: None, **paths}
        changed = [step for step in self.steps.values() if step.strength != 1]
        layers = self.edit.layers or len(self.layers)
        if changed and self.family is not None and len(self.edit.acted) < layers:
            self.warn_once(
                f"acts in {len(self.edit.acted)} of {layers} layers. In the others another node replaces attention, as "
                "IPAdapter and attention couple do, or computes something else in its place."
            )
        trace = StrengthTrace(
            self.settings.words, tuple(step.cpu() for _, step in sorted(self.steps.items())), len(self.schedule) - 1,
            tuple(paths), len(self.edit.acted), layers, fingerprint(samples),
        )
        log.info("%s: %s", NODE, trace.summary())
        self.record.add(trace)
