"""Tiny models with random weights that stand for those of the example workflows. For the host, a pack of one node."""
from __future__ import annotations

import sys
from pathlib import Path


async def comfy_entrypoint():
    """The host's entry point for node packs."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # for tests/host
    from .node import StandInExtension

    return StandInExtension()
