"""The nodes that a user sees, one file per feature."""

from . import (
    attend_excite,
    attention_curves,
    attention_loss,
    characteristic,
    keep_apart,
    meter,
    meter_curves,
    prompt,
    region,
    region_preview,
    regions,
    scfg,
    schedule,
    sega,
    word_mask,
    word_strength,
)

NODES = [
    *prompt.NODES, *scfg.NODES, *region_preview.NODES, *word_mask.NODES, *sega.NODES, *attend_excite.NODES,
    *keep_apart.NODES, *attention_curves.NODES, *schedule.NODES, *meter.NODES, *meter_curves.NODES, *region.NODES,
    *regions.NODES, *characteristic.NODES, *word_strength.NODES, *attention_loss.NODES,
]
