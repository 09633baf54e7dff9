"""The demo: S-CFG beside plain CFG, the regions that it guided and what each word saw, through a real server.

`python -m demo [--checkpoint FILE] [--output DIR]`, or by way of dev.py.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import time
from pathlib import Path

import workflow_files
from comfy_client import ComfyClient, Graph, NodeError
from comfy_server import ServerError, comfy_server, stop_on_terminate
from PIL import Image
from sheet import Figure, sheet, trimmed

STICKER_WORLD_PROMPT = "a lion and a blue car", "lion, car"
STICKER_WORLD_SEED = 5  # one with both subjects; plain CFG often leaves one out


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py demo", description="Make pictures with S-CFG and name them.")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="an SD 1.x, SD 2.x or SDXL checkpoint")
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("demo"), help="default: ./demo")
    arguments = parser.parse_args()
    stop_on_terminate()
    start = time.monotonic()
    try:
        graph, checkpoints = demo_graph(arguments.checkpoint)
        print("Starting ComfyUI ...", flush=True)
        with comfy_server(checkpoints=checkpoints) as client:
            print(f"  ready after {time.monotonic() - start:.0f} s at {client.address}. Sampling ...", flush=True)
            pictures = sample(client, graph)
    except (ServerError, NodeError, FileNotFoundError) as error:
        sys.exit(f"dev.py demo: {error}")
    except KeyboardInterrupt:
        sys.exit("dev.py demo: stopped")
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, (picture, meaning) in sheets(pictures, graph).items():
        picture.save(arguments.output / name)
        print(f"  {arguments.output / name}: {meaning}")
    print(f"Done in {time.monotonic() - start:.0f} s.")


def demo_graph(checkpoint: Path | None) -> tuple[Graph, Path | None]:
    """The graph to run, and the folder of the checkpoint in it (None: Sticker World)."""
    graph = workflow_files.load("scfg_text_to_image")
    graph["regions"]["inputs"]["step"] = graph["guided"]["inputs"]["steps"] // 2
    if checkpoint is None:
        graph["positive"]["inputs"]["text"], graph["words"]["inputs"]["words"] = STICKER_WORLD_PROMPT
        for sampler in workflow_files.nodes_of(graph, "KSampler"):
            sampler["seed"] = STICKER_WORLD_SEED
        return workflow_files.on_sticker_world(graph), None
    if not checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
    path = checkpoint.resolve()
    return workflow_files.on_checkpoint(graph, path.name, 1024 if is_sdxl(path) else 512), path.parent


def is_sdxl(checkpoint: Path) -> bool:
    """Whether a safetensors file holds the text encoders of SDXL; its header is JSON after an 8-byte length."""
    if checkpoint.suffix != ".safetensors":
        return False
    with checkpoint.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return any(key.startswith("conditioner.embedders.") for key in header)


def sample(client: ComfyClient, graph: Graph) -> dict[str, list[Image.Image]]:
    """The pictures of every SaveImage node, by its id without "save_"."""
    outputs = client.run(graph, timeout=math.inf)
    return {
        node.removeprefix("save_"): [Image.open(io.BytesIO(png)) for png in client.images(outputs, node)]
        for node in outputs
        if node.startswith("save_")
    }


def sheets(pictures: dict[str, list[Image.Image]], graph: Graph) -> dict[str, tuple[Image.Image, str]]:
    """File name -> (picture, what it shows)."""
    words = [word.strip() for word in graph["words"]["inputs"]["words"].split(",")]
    sampler = graph["guided"]["inputs"]
    plain = Figure(pictures["plain"][0], "plain CFG", f"one scale of {sampler['cfg']:g} everywhere")
    guided = Figure(pictures["guided"][0], "S-CFG", "a scale for every region")
    regions, rates = pictures["regions"][0], pictures["rates"][0]
    below = [Figure(trimmed(rates), "how strongly each place was guided")]
    for word, heat in zip(words, pictures["words"], strict=True):
        below.append(Figure(trimmed(heat), f'where the model sees "{word}"'))
    title = f'"{graph["positive"]["inputs"]["text"]}"'
    subtitle = f"the same seed ({sampler['seed']}), {sampler['steps']} steps of {sampler['sampler_name']}"
    beside = [plain, guided, Figure(trimmed(regions), "the regions that the model drew")]
    return {
        "overview.png": (sheet(title, subtitle, [beside, below], 448), "all of it on one sheet"),
        "plain_beside_scfg.png": (sheet(title, subtitle, [[plain, guided]], 640), "without and with S-CFG"),
        "regions.png": (regions, "the regions with their words, shares and rates"),
        "rates.png": (rates, "how strongly each place was guided; 1 is plain CFG"),
    } | {
        f"word_{word.replace(' ', '_')}.png": (heat, f'where the model sees "{word}"')
        for word, heat in zip(words, pictures["words"], strict=True)
    }


if __name__ == "__main__":
    main()
