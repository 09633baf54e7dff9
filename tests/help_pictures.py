"""The pictures of the help pages, from runs on Sticker World: `python -m help_pictures [NAME ...]`."""

from __future__ import annotations

import argparse
import io
import json

import workflow_files
from comfy_client import ComfyClient, Graph
from comfy_server import comfy_server
from paths import ROOT
from PIL import Image
from sheet import scale, trimmed

FOLDER = ROOT / "web" / "docs" / "images"
HEIGHT, GAP = 192, 12

# File name -> nodes whose pictures stand on it, left to right.
SCFG = {
    "scfg": ["save_plain", "save_guided"],
    "region_preview": ["save_regions", "save_rates"],
    "word_mask": ["save_guided", "save_words"],
}
SEGA = {"sega": ["save_plain", "save_edited"]}
SCHEDULE = {
    "schedule": ["save_plain", "save_guided", "save_words"], "meter": ["curves"], "meter_curves": ["word_curves"],
}
REGIONS = {"regions": ["save_plain", "save_guided", "preview"]}
KEEP_APART = {"keep_apart": ["save_plain", "save_excited", "preview"]}
WORD_STRENGTH = {"word_strength": ["save_plain", "save_more", "save_less"]}
ATTEND_EXCITE = {"attend_excite": ["save_plain", "save_excited"], "attention_curves": ["curves"]}
ATTENTION_LOSS = {"attention_loss": ["save_plain", "save_excited"]}
CHARACTERISTIC = {"characteristic": ["save_plain", "save_guided", "save_scale"]}


def runs() -> list[tuple[Graph, dict[str, list[str]]]]:
    """Each graph, with what is shown of its run."""
    scfg, sega, attend_excite, schedule, regions, attention_loss, characteristic = (
        workflow_files.on_sticker_world(workflow_files.load(name))
        for name in ("scfg_text_to_image", "sega_edit", "attend_excite", "guidance_over_time", "regions_from_boxes",
                     "attention_loss", "characteristic_guidance")
    )
    characteristic["save_scale"] = {"class_type": "PreviewImage", "inputs": {"images": ["curves", 0]}}
    return [(lion_and_car(scfg), SCFG), (sega, SEGA), (attend_excite, ATTEND_EXCITE), (schedule, SCHEDULE),
            (regions, REGIONS), (attention_loss, ATTENTION_LOSS), (characteristic, CHARACTERISTIC),
            (two_subjects(attend_excite), KEEP_APART),
            (strengths(attend_excite, {"more": 4.0, "less": 0.0}), WORD_STRENGTH)]


def lion_and_car(scfg: Graph) -> Graph:
    """The same of another prompt, and its regions in the middle of sampling."""
    graph = json.loads(json.dumps(scfg))
    graph["positive"]["inputs"]["text"] = "a lion and a blue car"
    graph["seed"]["inputs"]["value"] = 5
    graph["words"]["inputs"]["words"] = "lion, car"
    graph["regions"]["inputs"]["step"] = 10
    return graph


def two_subjects(attend_excite: Graph) -> Graph:
    """The same samplers at cfg 1, with Keep Apart in the place of Attend-and-Excite."""
    graph = json.loads(json.dumps(attend_excite))
    del graph["curves"]
    graph["positive"]["inputs"]["text"] = "a blue horse and a red car"
    graph["seed"]["inputs"]["value"] = 5
    for sampler in workflow_files.nodes_of(graph, "KSampler"):
        sampler["cfg"] = 1.0
    graph["excite"] = {"class_type": "SemanticGuidanceKeepApart", "inputs": {
        "model": ["loader", 0], "words": "blue horse, red car", "strength": 1.0, "emphasis": 4.0, "threshold": 1.0,
        "memory": 0.7, "map_scale": "auto", "start_percent": 0.0, "end_percent": 1.0,
    }}
    graph["preview"] = {"class_type": "SemanticGuidanceRegionPreview", "inputs": {
        "regions": ["excite", 2], "latent": ["excited", 0], "image": ["excited_image", 0], "step": -1, "opacity": 0.55,
    }}
    return graph


def strengths(attend_excite: Graph, values: dict[str, float]) -> Graph:
    """The plain sampler, and samplers of the same seed with these strengths of some words."""
    graph = json.loads(json.dumps(attend_excite))
    graph["positive"]["inputs"]["text"] = "a cat and a red balloon"
    changed = {name: node for name, node in graph.items() if not name.startswith(("excite", "save_excite", "curves"))}
    for name, value in values.items():
        changed[name] = {"class_type": "SemanticGuidanceWordStrength", "inputs": {
            "model": ["loader", 0], "conditioning": ["positive", 0], "words": "red balloon", "strength": value,
            "start_percent": 0.0, "end_percent": 1.0, "clip": ["loader", 1],
        }}
        own = {**graph["plain"]["inputs"], "model": [name, 0], "positive": [name, 1]}
        decoded = {**graph["plain_image"]["inputs"], "samples": [f"{name}_latent", 0]}
        shown = {**graph["save_plain"]["inputs"], "images": [f"{name}_image", 0]}
        changed |= {
            f"{name}_latent": {**graph["plain"], "inputs": own},
            f"{name}_image": {**graph["plain_image"], "inputs": decoded},
            f"save_{name}": {**graph["save_plain"], "inputs": shown},
        }
    return changed


def shown(client: ComfyClient, graph: Graph, wanted: dict[str, list[str]]) -> dict[str, Image.Image]:
    outputs = client.run(graph)
    return {
        name: row([Image.open(io.BytesIO(png)) for node in nodes for png in client.images(outputs, node)])
        for name, nodes in wanted.items()
    }


def row(pictures: list[Image.Image]) -> Image.Image:
    """The pictures at one height, side by side on white."""
    scaled = [scale(trimmed(picture) if picture.width > 512 else picture, HEIGHT) for picture in pictures]
    strip = Image.new("RGB", (sum(picture.width + GAP for picture in scaled) - GAP, HEIGHT), "white")
    x = 0
    for picture in scaled:
        strip.paste(picture, (x, 0))
        x += picture.width + GAP
    return strip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="such as scfg; all by default")
    names = parser.parse_args().names
    FOLDER.mkdir(exist_ok=True)
    with comfy_server() as client:
        for graph, pictures in runs():
            wanted = {name: nodes for name, nodes in pictures.items() if not names or name in names}
            for name, picture in (shown(client, graph, wanted) if wanted else {}).items():
                path = FOLDER / f"{name}.webp"
                picture.save(path, quality=50, method=6)
                print(path.relative_to(ROOT), f"{path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
