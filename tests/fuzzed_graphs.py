"""Graphs with one node of the pack each, and what a user, a script or another node may put into its inputs."""

from __future__ import annotations

import copy

from comfy_client import Graph
from hypothesis import strategies as st


def sampled(model: str, latent: str = "latent", positive: tuple[str, int] = ("prompt", 0)) -> dict:
    inputs = {
        "model": [model, 0], "positive": list(positive), "negative": ["negative", 0], "latent_image": [latent, 0],
        "seed": 1, "steps": 1, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    return {"class_type": "KSampler", "inputs": inputs}


COMMON: Graph = {
    "loader": {"class_type": "StickerWorldLoader", "inputs": {}},
    "prompt": {"class_type": "SemanticGuidancePrompt", "inputs": {"clip": ["loader", 1], "text": "a cat and a dog"}},
    "negative": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["loader", 1], "text": ""}},
    "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "picture": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "mask": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}},
    "number": {"class_type": "PrimitiveFloat", "inputs": {"value": 0.5}},
    "count": {"class_type": "PrimitiveInt", "inputs": {"value": 1}},
    "text": {"class_type": "PrimitiveString", "inputs": {"value": "cat"}},
}
SCFG = {
    "model": ["loader", 0], "strength": 1.0, "rate_min": 0.8, "rate_max": 3.0, "scale_cap": 15.0,
    "completion": "as released", "reference": "foreground", "map_scale": "auto", "start_percent": 0.0,
    "end_percent": 1.0,
}  # fmt: skip
EXCITE = {
    "model": ["loader", 0], "words": "cat, dog", "scale_factor": 20.0, "max_refinements": 1, "active_share": 1.0,
    "scale_start": 1.0, "scale_end": 0.5, "threshold_start": 0.05, "threshold_20": 0.5, "threshold_40": 0.8,
    "max_move": 0.1, "map_scale": "auto",
}  # fmt: skip
APART = {
    "model": ["loader", 0], "words": "cat, dog", "strength": 1.0, "emphasis": 4.0, "threshold": 1.0, "memory": 0.7,
    "map_scale": "auto", "start_percent": 0.0, "end_percent": 1.0,
}  # fmt: skip
LOSS = {"loss": "inside", "words": "cat", "weight": 1.0, "size": 0.1, "where": ["mask", 0]}
CONCEPT = {
    "conditioning": ["prompt", 0], "direction": "add", "edit_guidance_scale": 5.0, "threshold": 0.9, "warmup": 0.0,
    "cooldown": 0.0, "counted_in": "percent", "weight": 1.0, "confine_to": "", "mask": ["mask", 0],
}  # fmt: skip
SEGA = {
    "model": ["loader", 0], "concepts": ["concept", 0], "momentum_scale": 0.1, "momentum_beta": 0.4,
    "momentum_after_cooldown": True,
}  # fmt: skip
WORDS = {
    "model": ["loader", 0], "conditioning": ["prompt", 0], "latent": ["latent", 0], "words": "cat", "noise_level": 0.2,
    "mask": "soft", "threshold": 0.5, "seed": 0, "completion": "power series", "map_scale": "auto",
    "image": ["picture", 0],
}  # fmt: skip
SCHEDULE = {
    "model": ["loader", 0], "preset": "linear", "factor": 1.0, "words": "cat: 2", "clamp": 0.0, "power": 1.0,
    "cfgpp_lambda": 0.6, "start_percent": 0.0, "end_percent": 1.0, "map_scale": "auto", "mask": ["mask", 0],
}  # fmt: skip
METER = {"model": ["loader", 0], "words": "cat", "map_scale": "auto"}
METER_CURVES = {
    "meter": ["meter", 1], "latent": ["run", 0], "image": ["picture", 0], "other_meter": ["meter", 1],
    "other_latent": ["run", 0], "other_image": ["picture", 0],
}  # fmt: skip
REGIONS = {"regions": ["scfg", 1], "latent": ["run", 0], "step": -1, "opacity": 0.5}
REGION = {
    "conditioning": ["prompt", 0], "where": ["mask", 0], "words": "cat", "strength": 1.0, "negative": ["prompt", 0],
    "negative_strength": 1.0, "box": 0,
}  # fmt: skip
REGIONAL = {
    "model": ["loader", 0], "conditioning": ["prompt", 0], "regions": ["region", 0], "width": 64, "height": 64,
    "isolate": 0.0, "isolate_until": 0.5, "snap": "off", "start_percent": 0.0, "end_percent": 1.0,
}  # fmt: skip
CURVES = {"attention": ["excite", 1], "latent": ["run", 0]}


def node(name: str, inputs: dict) -> dict:
    return {"class_type": f"SemanticGuidance{name}", "inputs": inputs}


def preview(source: str, output: int = 0) -> dict:
    return {"class_type": "PreviewAny", "inputs": {"source": [source, output]}}


# Class -> what is added to COMMON. "node" is the one whose inputs are changed; one node writes an output.
GRAPHS: dict[str, Graph] = {
    "Prompt": {"node": node("Prompt", {"clip": ["loader", 1], "text": "a cat"}), "out": preview("node")},
    "Words": {
        "node": node("Words", {"clip": ["loader", 1], "text": "a cat and a dog", "conditioning": ["prompt", 0]}),
        "out": preview("node"),
    },
    "SCFG": {"node": node("SCFG", SCFG), "run": sampled("node"), "out": preview("run")},
    "RegionPreview": {
        "scfg": node("SCFG", SCFG), "run": sampled("scfg"),
        "node": node("RegionPreview", REGIONS),
    },
    "WordMask": {"node": node("WordMask", WORDS), "out": preview("node")},
    "AttendExcite": {"node": node("AttendExcite", EXCITE), "run": sampled("node"), "out": preview("run")},
    "KeepApart": {"node": node("KeepApart", APART), "run": sampled("node"), "out": preview("run")},
    "AttentionCurves": {
        "excite": node("AttendExcite", EXCITE), "run": sampled("excite"),
        "node": node("AttentionCurves", CURVES),
    },
    "AttentionLoss": {
        "node": node("AttentionLoss", LOSS), "run": sampled("excite"), "out": preview("run"),
        "excite": node("AttendExcite", {
            **EXCITE, "losses": ["node", 0], "enough": 0.9, "step_size": "Polyak", "polyak_eta": 0.01,
            "time_travel": 2, "travel_start": 0.0, "travel_end": 1.0,
        }),
    },
    "Concept": {
        "node": node("Concept", CONCEPT), "sega": node("SEGA", {**SEGA, "concepts": ["node", 0]}),
        "run": sampled("sega"), "out": preview("run"),
    },
    "SEGA": {"concept": node("Concept", CONCEPT), "node": node("SEGA", SEGA), "run": sampled("node"),
             "out": preview("run")},
    "Meter": {"node": node("Meter", METER), "run": sampled("node"), "out": preview("run")},
    "MeterCurves": {"meter": node("Meter", METER), "run": sampled("meter"), "node": node("MeterCurves", METER_CURVES)},
    "Region": {
        "node": node("Region", REGION), "regions": node("Regions", {**REGIONAL, "regions": ["node", 0]}),
        "run": sampled("regions", positive=("regions", 1)), "out": preview("run"),
    },
    "Regions": {
        "region": node("Region", REGION), "node": node("Regions", REGIONAL),
        "run": sampled("node", positive=("node", 1)), "out": preview("run"),
    },
    "Schedule": {"node": node("Schedule", SCHEDULE), "run": sampled("node"), "out": preview("run")},
}  # fmt: skip

NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(-(2**70), 2**70), st.floats(-2, 4), st.integers(-3, 3),
    st.sampled_from([0, -0.0, 1e-30, 1e308, 10**400, float("nan"), float("inf"), 2**63, 2**64 - 1]),
)
PIECES = st.sampled_from([
    "cat", "dog", "a", "giraffe", "#1", "#0", "#76", "#77", "#-1", "#" + "9" * 20, "#" + "9" * 5000, "#\u0663", "", " ",
    "(cat:1.2)", "cat: 2", "dog: nan", "(((", ")", "embedding:none", "\u732b", "\U0001f600", "e\u0301", "\u202e",
    "\x00", "\n", "a" * 300, "\ud800",
])  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=20), st.lists(PIECES, max_size=6).map(", ".join), st.lists(PIECES, max_size=6).map(" ".join),
    st.sampled_from(["word " * 10_000, "cat, " * 12, "cat," + "dog" * 3000]),
)
WRONG_LINKS = [
    ["node", 0], ["nowhere", 0], ["prompt", -1], ["prompt", 99], ["prompt"], [], [1, 2, 3], ["prompt", "0"],
    [None, None], [["prompt"], 0], ["prompt", 0.5],
]  # fmt: skip
LINKS = st.sampled_from([[name, output] for name in COMMON for output in (0, 1, 2)] + WRONG_LINKS)
ANYTHING = st.one_of(
    LINKS, NUMBERS, TEXTS, st.none(), st.booleans(),
    st.sampled_from([{}, {"__value__": []}, {"__value__": [1, 2]}, {"__value__": [[None, {}]]}, {"samples": 1}]),
)
MISSING = object()
WIDGETS = ("FLOAT", "INT", "BOOLEAN", "STRING", "COMBO")


def allowed(kind: str, options: dict) -> st.SearchStrategy:
    """What the schema allows, as far as it is quick to run."""
    if kind == "FLOAT":
        return st.one_of(st.floats(options["min"], options["max"]), st.sampled_from([options["min"], options["max"]]))
    if kind == "INT":
        return st.integers(options["min"], max(options["min"], 5))
    if kind == "BOOLEAN":
        return st.booleans()
    if kind == "STRING":
        words = st.sampled_from(["cat", "dog", "a cat", "cat, dog", "#2", "cat,\n#5, a dog"])
        return st.one_of(words, words, words, TEXTS)
    return st.sampled_from([option for option in options["options"] if option != "1/8"])  # a grid that the model lacks


def any_value(kind: str, options: dict) -> st.SearchStrategy:
    """Mostly of the right type, often outside of the limits, or from a node that gives such values."""
    if kind in ("FLOAT", "INT"):
        return st.one_of(NUMBERS, st.just(["number" if kind == "FLOAT" else "count", 0]), ANYTHING)
    if kind == "STRING":
        return st.one_of(TEXTS, st.just(["text", 0]), ANYTHING)
    return st.one_of(LINKS, ANYTHING)


@st.composite
def allowed_graphs(draw, name: str, inputs: dict[str, list]) -> Graph:
    """A graph in which about half of the node's settings are others that the schema allows."""
    graph = copy.deepcopy(COMMON | GRAPHS[name])
    given = graph["node"]["inputs"]
    for key, (kind, options) in inputs.items():
        if kind in WIDGETS and (key not in given or draw(st.booleans())):
            given[key] = draw(allowed(kind, options))
    return graph


@st.composite
def any_graphs(draw, name: str, inputs: dict[str, list]) -> Graph:
    """A graph in which one or two inputs of the node hold anything, or are missing."""
    graph = copy.deepcopy(COMMON | GRAPHS[name])
    for key in draw(st.lists(st.sampled_from(sorted(inputs)), min_size=1, max_size=2, unique=True)):
        value = draw(st.one_of(any_value(*inputs[key]), any_value(*inputs[key]), st.just(MISSING)))
        if value is MISSING:
            graph["node"]["inputs"].pop(key, None)
        else:
            graph["node"]["inputs"][key] = value
    graph["number"]["inputs"]["value"] = draw(st.one_of(st.floats(-2, 4), st.just(float("nan")), st.just(1e18)))
    graph["count"]["inputs"]["value"] = draw(st.integers(-3, 10**6))
    graph["text"]["inputs"]["value"] = draw(TEXTS)
    return graph
