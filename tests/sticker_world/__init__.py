"""Sticker World: a small text-to-image model in a world where truth is known. For the host, a pack of one node."""
from __future__ import annotations


async def comfy_entrypoint():
    """The host's entry point for node packs."""
    from .node import StickerWorldExtension

    return StickerWorldExtension()
