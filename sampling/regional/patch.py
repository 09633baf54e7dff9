"""Regional Prompts on a clone of a model."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from comfy.model_management import is_oom
from comfy.patcher_extension import WrappersMP

from ...attention_hooks.families import model_family
from ...attention_hooks.observe import JOINED
from ..conds import REGIONS_KEY
from ..post_cfg import name_of
from ..region_record import RegionRecord
from ..run import add_outermost, add_run
from .region import NODE, Region
from .run import APART, RegionalRun, Settings

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

OTHER_TEXTS = {"HiDream": "its prompt in parts, of which only one can be joined"}  # by the name of the family


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

    def apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs):
        kwargs.pop(APART, None)
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

    mark = uuid.uuid4().hex
    model = model.clone()
    add_outermost(model, WrappersMP.APPLY_MODEL, apply_model)  # within the change of the text, which comes before
    add_run(
        model, lambda guider, sigmas: RegionalRun(guider, sigmas, regions, settings, mark, record), changes_text=True
    )
    return model, [[text, {**extra, REGIONS_KEY: mark}] for text, extra in conditioning], record
