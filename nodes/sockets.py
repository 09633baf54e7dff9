"""Socket types of our own."""

from comfy_api.latest import io

CATEGORY = "semantic guidance"

Regions = io.Custom("SEMANTIC_REGIONS")  # sampling.region_record.RegionRecord
Concepts = io.Custom("SEMANTIC_CONCEPTS")  # tuple of sampling.sega.concepts.Concept
AttentionTrace = io.Custom("SEMANTIC_ATTENTION")  # sampling.attention_record.AttentionRecord
RegionalPrompts = io.Custom("SEMANTIC_REGIONAL_PROMPTS")  # tuple of sampling.regional.region.Region
Losses = io.Custom("SEMANTIC_LOSSES")  # tuple of sampling.attend_excite.losses.AttentionLoss
Meter = io.Custom("SEMANTIC_METER")  # sampling.meter.record.MeterRecord
