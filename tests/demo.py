"""The demo: each method on a prompt where its effect is seen, through a real server, on one sheet.

`python -m demo [--method NAME] [--prompt TEXT] [--checkpoint FILE] [--output DIR]`, or by way of dev.py.
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
from demo_rows import ROWS, Row, base, subjects
from PIL import Image
from sheet import Figure, Strip, sheet, trimmed

MODELS = ("unet", "joint", "cross")
UNABLE = {"cross": ("excite",)}  # rows that a model cannot show: Wan's attention has no gradient
DRAWN = ("regions", "rates", "words")  # pictures with a title and a scale of their own


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py demo", description="Show on a sheet what each method does.")
    parser.add_argument("--method", choices=ROWS, metavar="NAME", help=f"one of them: {', '.join(ROWS)}")
    parser.add_argument("--prompt", help="your own, for one method; on Sticker World: a cat and a red balloon")
    parser.add_argument("--words", help="what the method's node is told; without it, the subjects of the prompt")
    parser.add_argument("--seed", type=int, help="another one")
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="which of Sticker World's models")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="an SD 1.x, SD 2.x or SDXL checkpoint")
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("demo"), help="default: ./demo")
    arguments = parser.parse_args()
    if arguments.prompt and not arguments.method:
        parser.error("--prompt needs --method, the one to use it with")
    unable = UNABLE.get(arguments.model, ())
    if arguments.method in unable:
        parser.error(f"the model {arguments.model} cannot show {arguments.method}: its attention has no gradient")
    if arguments.checkpoint and not arguments.checkpoint.is_file():
        parser.error(f"there is no checkpoint {arguments.checkpoint}")
    stop_on_terminate()
    start = time.monotonic()
    rows = {name: row for name, row in ROWS.items() if arguments.method in (None, name) and name not in unable}
    rows = {name: own(row, arguments.prompt, arguments.words, arguments.seed) for name, row in rows.items()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    strips = []
    try:
        print("Starting ComfyUI ...", flush=True)
        folder = arguments.checkpoint.resolve().parent if arguments.checkpoint else None
        with comfy_server(checkpoints=folder) as client:
            print(f"  ready after {time.monotonic() - start:.0f} s at {client.address}. Sampling ...", flush=True)
            for name, row in rows.items():
                strips.append(made(client, row, arguments.checkpoint, arguments.model))
                path = arguments.output / f"{name}.png"
                sheet("", "", strips[-1:], 448).save(path)
                print(f"  {path}: {row.title}", flush=True)
    except (ServerError, NodeError) as error:
        sys.exit(f"dev.py demo: {error}")
    except KeyboardInterrupt:
        sys.exit("dev.py demo: stopped")
    model = arguments.checkpoint.name if arguments.checkpoint else "Sticker World, a small model of our own"
    path = arguments.output / "overview.png"
    sheet("Guidance by meaning", f"{model}; the same seed along each row", strips, 256).save(path)
    print(f"  {path}: all of it on one sheet\nDone in {time.monotonic() - start:.0f} s.")


def own(row: Row, prompt: str | None, words: str | None, seed: int | None) -> Row:
    """The row with a user's words. What was measured was not measured on them."""
    if prompt or words:
        prompt = prompt or row.prompt
        row = row._replace(prompt=prompt, words=words or subjects(prompt), measured="")
    return row if seed is None else row._replace(seed=seed)


def made(client: ComfyClient, row: Row, checkpoint: Path | None, model: str) -> Strip:
    """The row's pictures, from its graph."""
    graph = base(row)
    shown = row.build(graph, row)
    graph = with_defaults(client, graph)
    if checkpoint is None:
        graph = workflow_files.on_sticker_world(graph, model)
    else:
        graph = workflow_files.on_checkpoint(graph, checkpoint.name, 1024 if is_sdxl(checkpoint) else 512)
    if checkpoint is not None or model != "unet":
        row = row._replace(measured="")
    if row.cfg is not None:
        for sampler in workflow_files.nodes_of(graph, "KSampler"):
            sampler["cfg"] = row.cfg
    pictures = sample(client, graph)
    figures = []
    for name, caption, note in shown:
        picture = pictures[name].pop(0) if name in DRAWN else pictures[name][0]
        figures.append(Figure(trimmed(picture) if name in DRAWN else picture, caption, note))
    return Strip(row.title, f'{row.node}, "{row.prompt}". {row.measured}'.rstrip(), figures)


def with_defaults(client: ComfyClient, graph: Graph) -> Graph:
    """The graph with the defaults of all widgets that it leaves out."""
    filled = {}
    for name, node in graph.items():
        inputs = client.object_info(node["class_type"])[node["class_type"]]["input"].get("required", {})
        defaults = {key: spec[1]["default"] for key, spec in inputs.items() if len(spec) > 1 and "default" in spec[1]}
        filled[name] = {**node, "inputs": {**defaults, **node["inputs"]}}
    return filled


def is_sdxl(checkpoint: Path) -> bool:
    """Whether a safetensors file holds the text encoders of SDXL; its header is JSON after an 8-byte length."""
    if checkpoint.suffix != ".safetensors":
        return False
    with checkpoint.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return any(key.startswith("conditioner.embedders.") for key in header)


def sample(client: ComfyClient, graph: Graph) -> dict[str, list[Image.Image]]:
    """The pictures of every PreviewImage node, by its id without "save_"."""
    outputs = client.run(graph, timeout=math.inf)
    return {
        node.removeprefix("save_"): [Image.open(io.BytesIO(png)) for png in client.images(outputs, node)]
        for node in outputs
        if node.startswith("save_")
    }


if __name__ == "__main__":
    main()
