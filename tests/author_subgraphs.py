"""Save the subgraph blueprints as a user would, from the real front end: `python -m author_subgraphs [NAME ...]`.

tests/subgraphs/NAME.json (API format, with open inputs) says what is inside; BLUEPRINTS says what a user sees of it.
The front end makes the subgraph and publishes it; that goes to subgraphs/TITLE.json. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import json
import uuid
from typing import NamedTuple
from urllib.parse import quote

from author_workflows import with_packs
from comfy_client import ComfyClient
from comfy_server import comfy_server
from front_end import front_end
from paths import ROOT, TESTS
from workflow_files import numbered


class Blueprint(NamedTuple):
    title: str  # file name, and what the node search shows
    description: str
    aliases: list[str]
    columns: list[list[str]]  # nodes, left to right
    inputs: dict[str, list[str]]  # name on the outside: "node.input" of those that it sets
    outputs: dict[str, str]  # name on the outside: "node.output number"


BLUEPRINTS = {
    "semantic_text_to_image": Blueprint(
        "Semantic text to image",
        "Draws a picture from a prompt with S-CFG, which gives every region of it its own CFG scale. Set width "
        "and height to what the model draws.",
        ["s-cfg", "text to image", "semantic guidance"],
        [["positive", "negative", "latent"], ["scfg", "sampler"], ["image"]],
        {
            "model": ["scfg.model"],
            "clip": ["positive.clip", "negative.clip"],
            "vae": ["image.vae"],
            "prompt": ["positive.text"],
            "negative prompt": ["negative.text"],
            "width": ["latent.width"],
            "height": ["latent.height"],
            "strength": ["scfg.strength"],
            "seed": ["sampler.seed"],
            "steps": ["sampler.steps"],
            "cfg": ["sampler.cfg"],
            "sampler": ["sampler.sampler_name"],
            "scheduler": ["sampler.scheduler"],
        },
        {"IMAGE": "image.0"},
    ),
    "mask_by_word": Blueprint(
        "Mask by word",
        "Makes a mask for each word from where the model sees it in a picture, and a heat map to look at. The prompt "
        "says what is in the picture.",
        ["mask from text", "segment word", "semantic guidance"],
        [["prompt", "latent"], ["words"]],
        {
            "model": ["words.model"],
            "clip": ["prompt.clip"],
            "vae": ["latent.vae"],
            "image": ["latent.pixels", "words.image"],
            "prompt": ["prompt.text"],
            "words": ["words.words"],
            "noise_level": ["words.noise_level"],
            "mask": ["words.mask"],
            "threshold": ["words.threshold"],
        },
        {"MASK": "words.0", "IMAGE": "words.1"},
    ),
}

PUBLISH = """async ({graph, columns, inputs, outputs, title}) => {
  await app.loadApiJson(graph, title);
  for (const node of app.graph.nodes) {
    const control = node.widgets?.find(widget => widget.name === 'control_after_generate');
    if (control) control.value = 'fixed';
  }
  columns.forEach((column, number) => {
    let y = 0;
    for (const id of column) {
      const node = app.graph.getNodeById(id);
      const height = Math.max(node.computeSize()[1], /Prompt|CLIPTextEncode/.test(node.type) ? 150 : 0);
      node.pos = [420 * number, y];
      node.setSize([360, height]);
      y += height + 60;
    }
  });
  const {subgraph, node} = app.graph.convertToSubgraph(new Set(app.graph.nodes));
  subgraph.name = node.title = title;
  for (const input of [...subgraph.inputs]) subgraph.removeInput(input);  // those that the front end chose
  for (const [name, targets] of inputs) {
    let entry;
    for (const [id, key] of targets) {
      const target = subgraph.getNodeById(id);
      const slot = target.inputs[target.findInputSlot(key)];
      entry ??= subgraph.addInput(name, slot.type);
      entry.connect(slot, target);
    }
  }
  for (const [name, id, number] of outputs) {
    const source = subgraph.getNodeById(id);
    const slot = source.outputs[number];
    subgraph.addOutput(name, slot.type).connect(slot, source);
  }
  subgraph.inputNode.pos = [-260, 0];
  subgraph.outputNode.pos = [420 * columns.length, 0];
  const [, height] = node.computeSize(), room = 60 * node.widgets.filter(widget => widget.element).length;
  node.setSize([360, height + room]);
  app.canvas.select(node);
  await app.extensionManager.command.execute('Comfy.PublishSubgraph', {metadata: {name: title}});
}"""


def author(client: ComfyClient, name: str, blueprint: Blueprint) -> dict:
    graph, numbers = numbered(json.loads((TESTS / "subgraphs" / f"{name}.json").read_text(encoding="utf-8")))

    def place(target: str) -> list:
        node, slot = target.split(".")
        return [numbers[node], slot]

    with front_end(client.address) as page:
        page.evaluate(
            PUBLISH,
            {
                "graph": graph,
                "columns": [[numbers[node] for node in column] for column in blueprint.columns],
                "inputs": [[name, list(map(place, targets))] for name, targets in blueprint.inputs.items()],
                "outputs": [[name, *place(target)] for name, target in blueprint.outputs.items()],
                "title": blueprint.title,
            },
        )
    return published(client.get_json(f"/userdata/{quote(f'subgraphs/{blueprint.title}.json', safe='')}"), blueprint)


def published(saved: dict, blueprint: Blueprint) -> dict:
    """With ids that stay the same, and what the node library shows."""
    [subgraph] = saved["definitions"]["subgraphs"]
    base = f"semantic-guidance/{blueprint.title}"
    for slot in subgraph["inputs"] + subgraph["outputs"]:
        slot["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{base}/{slot['name']}"))
    subgraph["category"] = "Semantic Guidance"
    subgraph["description"] = blueprint.description
    with_packs(subgraph["nodes"])
    saved["extra"] = {"BlueprintDescription": blueprint.description, "BlueprintSearchAliases": blueprint.aliases}
    stable = str(uuid.uuid5(uuid.NAMESPACE_URL, base))
    return json.loads(json.dumps(saved).replace(subgraph["id"], stable))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of tests/subgraphs; all by default")
    names = parser.parse_args().names or list(BLUEPRINTS)
    with comfy_server() as client:
        for name in names:
            blueprint = BLUEPRINTS[name]
            path = ROOT / "subgraphs" / f"{blueprint.title}.json"
            saved = author(client, name, blueprint)
            path.write_text(json.dumps(saved, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
