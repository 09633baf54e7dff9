"""Socket types of our own."""

from comfy_api.latest import io

CATEGORY = "semantic guidance"

Regions = io.Custom("SEMANTIC_REGIONS")  # attention_hooks.regions.RegionRecord
Concepts = io.Custom("SEMANTIC_CONCEPTS")  # tuple of attention_hooks.concepts.Concept
AttentionTrace = io.Custom("SEMANTIC_ATTENTION")  # attention_hooks.attention_trace.AttentionRecord
