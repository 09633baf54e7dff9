"""Nodes of other packs for which one of ours stands in. The host does it only where the other pack is missing."""

from __future__ import annotations

from comfy_api.latest import io

from .scfg import SemanticGuidanceSCFG


def replacements() -> list[io.NodeReplace]:
    """Of shiimizu's ComfyUI-semantic-aware-guidance, whose one node takes and gives a model, and has no settings."""
    settings = SemanticGuidanceSCFG.define_schema().inputs[1:]
    return [
        io.NodeReplace(
            old_node_id="SemanticAwareGuidance",
            new_node_id="SemanticGuidanceSCFG",
            old_widget_ids=[],
            input_mapping=[
                {"old_id": "model", "new_id": "model"},
                *({"new_id": entry.id, "set_value": entry.default} for entry in settings),
            ],
            output_mapping=[{"old_idx": 0, "new_idx": 0}],
        )
    ]
