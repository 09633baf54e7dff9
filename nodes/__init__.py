"""The nodes that a user sees, one file per feature."""

from . import prompt, region_preview, scfg, word_mask

NODES = [*prompt.NODES, *scfg.NODES, *region_preview.NODES, *word_mask.NODES]
