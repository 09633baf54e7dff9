"""Socket types of our own."""

from comfy_api.latest import io

CATEGORY = "semantic guidance"

Regions = io.Custom("SEMANTIC_REGIONS")  # attention_hooks.regions.RegionRecord
