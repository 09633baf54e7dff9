"""Save the example workflows as a user would, from the real front end: `python -m author_workflows [NAME ...]`.

tests/workflows/NAME.json (API format) says what a workflow does; PAGES says how it is laid out and explained. The front
end lays the nodes out and writes workflows/TITLE.json. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import json
import uuid
from typing import NamedTuple

import workflow_files
from comfy_client import Graph
from comfy_server import comfy_server
from front_end import front_end
from paths import ROOT
from playwright.sync_api import Page as BrowserPage
from workflow_pages import PAGES, Page

LAYOUT = """async ({graph, groups, title, app: shown}) => {
  await app.extensionManager.command.execute('Comfy.NewBlankWorkflow');
  await app.loadApiJson(graph, title);
  const gap = 40, top = 120, width = 360;
  let x = 0;
  for (const {name, note, nodes} of groups) {
    const left = x + gap / 2;
    let y = top;
    const place = (node, height) => {
      node.pos = [left, y];
      node.setSize([width, height]);
      y += height + gap + 20;
    };
    if (note) {
      const node = LiteGraph.createNode('MarkdownNote');
      app.graph.add(node);
      node.widgets[0].value = note;
      const shown = note.replace(/\\]\\([^)]*\\)/g, '');  // links without their addresses
      place(node, 80 + 18 * Math.ceil(shown.length / 48) + 10 * note.split('\\n').length);
    }
    for (const id of nodes) {
      const node = app.graph.getNodeById(id);
      const control = node.widgets?.find(widget => widget.name === 'control_after_generate');
      if (control) control.value = 'fixed';
      const height = node.computeSize()[1];
      if (/^(Save|Preview)/.test(node.type)) place(node, 320);
      else if (/RegionPreview|WordMask|AttentionCurves|MeterCurves/.test(node.type)) place(node, height + 280);
      else place(node, /Prompt|CLIPTextEncode/.test(node.type) ? Math.max(height, 150) : height);
    }
    const group = new LGraphGroup(name);
    group.pos = [x, top - 80];
    group.size = [width + gap, y - top + 60];
    app.graph.add(group);
    x += width + gap + 40;
  }
  if (shown) {
    for (const [id, name, label] of shown.inputs) {
      const node = app.graph.getNodeById(id);
      if (!label) continue;
      node.widgets.find(widget => widget.name === name).label = label;
      node.inputs.find(input => input.widget?.name === name).label = label;
    }
    const inputs = shown.inputs.map(([id, name]) => [id, name]);
    Object.assign(app.graph.extra, {linearMode: true, linearData: {inputs, outputs: shown.outputs}});
  }
  app.graph.setDirtyCanvas(true, true);
  const {workflow, output} = await app.graphToPrompt();
  return JSON.stringify({saved: workflow, sent: output});
}"""


class Saved(NamedTuple):
    saved: dict  # UI format, as the front end writes it
    sent: Graph  # API format, as the front end sends it


def author(browser: BrowserPage, graph: Graph, page: Page) -> Saved:
    plain, numbers = workflow_files.numbered(graph)
    missing = set(graph) - {name for group in page.groups for name in group.nodes}
    if missing:
        raise ValueError(f"{page.title}: no group holds {', '.join(sorted(missing))}")
    notes = [group.note for group in page.groups]
    notes[0] += links(page.models)
    groups = [
        {"name": group.name, "note": note, "nodes": [numbers[name] for name in group.nodes]}
        for group, note in zip(page.groups, notes, strict=True)
    ]
    app = page.app and {
        "inputs": [[str(numbers[node]), widget, label] for node, widget, label in page.app.inputs],
        "outputs": [str(numbers[node]) for node in page.app.outputs],
    }
    written = browser.evaluate(LAYOUT, {"graph": plain, "groups": groups, "title": page.title, "app": app})
    saved, sent = json.loads(written).values()
    for number, node in plain.items():
        if sent[number]["inputs"] != node["inputs"]:
            raise ValueError(f"{page.title}: the front end sends {sent[number]} for {node}")
    return Saved(published(saved, page), sent)


def links(models: list[dict[str, str]]) -> str:
    """As the notes in the host's own templates name and link models."""
    folders = dict.fromkeys(model["directory"] for model in models)
    return "\n\n## Model links\n" + "".join(
        f"\n**{folder}**\n\n" + "".join(
            f"- [{model['name']}]({model['url']})\n" for model in models if model["directory"] == folder
        )
        for folder in folders
    )


def published(saved: dict, page: Page) -> dict:
    """What the registry and the node manager read: a stable id, and the pack that each node comes from."""
    with_packs(saved["nodes"])
    for node in saved["nodes"]:
        loaded = [model for model in page.models if model["name"] in node.get("widgets_values", [])]
        if loaded:
            node["properties"]["models"] = loaded
    saved["extra"]["ds"] = {"scale": 0.6, "offset": [120, 60]}
    saved["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"semantic-guidance/{page.title}"))
    return saved


def with_packs(nodes: list[dict]) -> None:
    """Write into each saved node which pack it comes from."""
    for node in nodes:
        ours = node["type"].startswith("SemanticGuidance")
        node["properties"]["cnr_id"] = "semantic-guidance" if ours else "comfy-core"


def lines(saved: dict) -> str:
    """JSON with a line for each node and link: changes show, and the registry's archive stays small."""

    def compact(value) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    def part(value) -> str:
        return "[\n" + ",\n".join(map(compact, value)) + "\n]" if value and isinstance(value, list) else compact(value)

    return "{\n" + ",\n".join(f"{compact(key)}:{part(saved[key])}" for key in sorted(saved)) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of tests/workflows; all by default")
    names = parser.parse_args().names or list(PAGES)
    with comfy_server() as client, front_end(client.address) as browser:
        for name in names:
            page = PAGES[name]
            result = author(browser, workflow_files.load(name), page)
            path = ROOT / "workflows" / f"{page.title}.json"
            path.write_text(lines(result.saved), encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
