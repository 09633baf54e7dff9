"""What a node's inputs have when nobody sets them."""

from __future__ import annotations


def defaults(node) -> dict:
    return {item.id: item.default for item in node.define_schema().inputs if getattr(item, "default", None) is not None}
