"""The nodes that a user sees, one file per feature."""

from . import prompt, scfg

NODES = [*prompt.NODES, *scfg.NODES]
