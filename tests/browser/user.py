"""What a user does on a page of the front end, and what is to be seen there."""

from __future__ import annotations

import json
from pathlib import Path

from comfy_client import ComfyClient
from front_end import enter
from playwright.sync_api import Locator, Page
from workflow_files import STICKER_WORLD_LOADER

FOLDER = "semantic-guidance"
RUN_MS = 300_000

SPOT = """([type, part, name]) => {
  const node = app.graph.nodes.find(node => node.type === type), canvas = app.canvas;
  canvas.ds.scale = 1;
  canvas.centerOnNode(node);
  canvas.draw(true, true);
  const index = part === 'widget' ? -1 : node[part + 's'].findIndex(slot => slot.name === name);
  const widget = node.widgets?.find(widget => widget.name === name);
  const place = part === 'widget' ? [node.pos[0] + 60, node.pos[1] + widget.y + 8]
    : part === 'input' ? node.getInputPos(index) : node.getOutputPos(index);
  const [x, y] = canvas.ds.convertOffsetToCanvas(place), frame = canvas.canvas.getBoundingClientRect();
  return [x + frame.left, y + frame.top];
}"""

# The checkpoint loaders become Sticker World's, and sizes and steps what is quick on it.
ON_STICKER_WORLD = """([loader, settings]) => {
  for (const old of app.graph.nodes.filter(node => node.type === 'CheckpointLoaderSimple')) {
    const node = LiteGraph.createNode(loader);
    node.pos = [...old.pos];
    app.graph.add(node);
    old.outputs.forEach((output, slot) => {
      for (const id of [...output.links ?? []]) {
        const link = app.graph.getLink(id);
        node.connect(slot, app.graph.getNodeById(link.target_id), link.target_slot);
      }
    });
    app.graph.remove(old);
  }
  for (const node of app.graph.nodes)
    for (const widget of node.widgets ?? []) if (widget.name in settings) widget.value = settings[widget.name];
}"""
QUICK = {"steps": 4, "width": 128, "height": 128, "cfg": 5, "map_scale": "1/2", "max_refinements": 2}

PLACE = """type => {
  const node = LiteGraph.createNode(type);
  node.pos = [Math.max(0, ...app.graph.nodes.map(other => other.pos[0] + other.size[0] + 60)), 0];
  app.graph.add(node);
  return node.title;
}"""

FRAME = """title => {
  const node = app.graph.nodes.find(node => node.title === title), canvas = app.canvas;
  canvas.ds.scale = 1;
  canvas.centerOnNode(node);
  canvas.draw(true, true);
  const [x, y] = canvas.ds.convertOffsetToCanvas(node.pos), frame = canvas.canvas.getBoundingClientRect();
  return {x: x + frame.left, y: y + frame.top, width: node.size[0], height: node.size[1]};
}"""

PICTURES_SHOWN = """() => app.graph.nodes
  .filter(node => node.imgs?.length && node.imgs.every(picture => picture.complete && picture.naturalWidth))
  .map(node => [node.title, node.imgs.map(picture => picture.naturalWidth)])"""


class User:
    def __init__(self, page: Page, comfy: ComfyClient, pictures: Path):
        self.page, self.comfy, self.pictures = page, comfy, pictures
        self.console: list[str] = []  # errors that concern the pack, and all that stop a script
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.console.append(str(error)))

    def _heard(self, message) -> None:
        said = f"{message.text} {message.location.get('url', '')}"
        fallback = said.endswith("/en.md")  # which the front end asks for before the page in the pack's own language
        if message.type == "error" and not fallback and any(sign in said for sign in (FOLDER, "SemanticGuidance")):
            self.console.append(said)

    def start_afresh(self) -> None:
        """An empty graph, and nothing in front of it."""
        if self.page.evaluate("app.extensionManager.setting.get('Comfy.Locale')") != "en":
            self.speak("en")
        for _ in range(2):
            self.page.keyboard.press("Escape")
        if self.page.get_by_test_id("error-overlay-dismiss").is_visible():
            self.page.get_by_test_id("error-overlay-dismiss").click()
        self.page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
        self.page.wait_for_function("app.graph.nodes.length === 0")
        self.console.clear()

    def reload(self) -> None:
        enter(self.page, self.comfy.address)

    def speak(self, language: str) -> None:
        """Set the front end's language, as its settings dialog does."""
        self.comfy.post("/settings/Comfy.Locale", json.dumps(language).encode())
        self.reload()

    def photograph(self, name: str) -> None:
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def templates(self) -> Locator:
        """The dialog of templates, with those of the pack."""
        self.page.get_by_text("Templates", exact=True).first.click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(FOLDER, exact=True).first.click()
        return dialog

    def open_template(self, title: str) -> None:
        dialog = self.templates()
        dialog.get_by_text(title, exact=True).first.click()
        dialog.wait_for(state="hidden")
        self.page.wait_for_function("app.graph.nodes.length > 0")
        if self.page.evaluate("app.graph.extra.linearMode"):
            self.page.get_by_test_id("linear-run-button").wait_for()

    def open(self, workflow: Path) -> None:
        """As if the file was dropped on the page."""
        graph = json.loads(workflow.read_text(encoding="utf-8"))
        graph["extra"].pop("linearMode", None)  # as a graph, where it would open as an app
        self.page.evaluate("graph => app.loadGraphData(graph)", graph)

    def nodes(self) -> list[dict]:
        return self.page.evaluate(
            "app.graph.nodes.map(({type, title, has_errors}) => ({type, title, wrong: !!has_errors}))"
        )

    def sent(self) -> dict[str, dict]:
        """What Run would send: the inputs of each node, by its number."""
        sent = self.page.evaluate("app.graphToPrompt().then(({output}) => output)")
        return {number: node["inputs"] for number, node in sent.items()}

    def alerts(self) -> list[str]:
        """What the front end says in front of the graph."""
        kinds = ("[role=dialog]", ".p-toast-message", "[data-testid=error-overlay]")
        return self.page.locator(", ".join(f"{kind}:visible" for kind in kinds)).all_inner_texts()

    def spot(self, node: str, part: str, name: str) -> tuple[float, float]:
        """Where a node's input, output or widget is on the screen."""
        return tuple(self.page.evaluate(SPOT, [node, part, name]))

    def tooltip(self, node: str, part: str, name: str) -> str:
        x, y = self.spot(node, part, name)
        self.page.mouse.move(x - 150, y - 150)
        self.page.locator(".node-tooltip").wait_for(state="hidden")
        self.page.mouse.move(x, y)
        self.page.mouse.move(x + 1, y + 1)
        shown = self.page.locator(".node-tooltip:visible")
        shown.wait_for()
        return shown.inner_text()

    def help(self, node: str) -> str:
        """The help page of a node of the graph, by the button over the node."""
        self.page.evaluate(
            "type => { const node = app.graph.nodes.find(node => node.type === type);"
            " app.canvas.ds.scale = 1; app.canvas.centerOnNode(node); app.canvas.selectNode(node); }",
            node,
        )
        self.page.get_by_test_id("info-button").click()
        panel = self.page.get_by_test_id("properties-panel").locator(".node-help-content")
        panel.locator("h1").first.wait_for()
        return panel.inner_text()

    def search(self, text: str) -> Locator:
        """The results for a text in the box that a double click on the canvas opens."""
        box = self.page.get_by_role("combobox", name="Add a node...")
        while not box.is_visible():  # on a busy machine, two clicks may come too far apart
            self.page.mouse.dblclick(500, 800)
            self.page.wait_for_timeout(1500)
        box.fill(text)
        results = self.page.get_by_test_id("result-item")
        results.first.wait_for()
        self.page.wait_for_timeout(500)  # the list follows the typing
        return results

    def take(self, result: Locator) -> None:
        """Add a node that the search found, where the graph has room."""
        before = len(self.nodes())
        result.click()
        self.page.wait_for_function("before => app.graph.nodes.length > before", arg=before)
        while self.page.evaluate("app.graph.nodes.some(node => node.flags.ghost)"):  # it follows the mouse
            self.page.mouse.move(600, 400)
            self.page.wait_for_timeout(500)  # the box fades away before a click reaches the graph
            self.page.mouse.click(700, 300)
            self.page.wait_for_timeout(500)

    def place(self, node: str) -> str:
        """Add a node to the right of all others; its title."""
        return self.page.evaluate(PLACE, node)

    def frame(self, title: str) -> dict[str, float]:
        """The part of the screen that a node fills, after it has come to the middle in full size."""
        return self.page.evaluate(FRAME, title)

    def look_at_all(self) -> None:
        self.page.evaluate("app.canvas.deselectAll(); app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(1500)  # it glides there

    def save(self, name: str) -> None:
        self.page.keyboard.press("Control+s")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("textbox").fill(name)
        with self.page.expect_response(lambda answer: answer.request.method == "POST" and "workflows" in answer.url):
            self.page.keyboard.press("Enter")
        dialog.wait_for(state="hidden")

    def open_saved(self, name: str) -> None:
        """From the side bar."""
        self.page.get_by_text("Workflows", exact=True).first.click()
        self.page.get_by_role("treeitem").get_by_text(name, exact=True).last.click()
        self.page.wait_for_function("app.graph.nodes.length > 0")

    def on_sticker_world(self, **settings) -> None:
        self.page.evaluate(ON_STICKER_WORLD, [STICKER_WORLD_LOADER, QUICK | settings])

    def run(self) -> str:
        """Press Run; the name of the event that ends the run, or "refused"."""
        self.page.evaluate(
            "window.ended = ''; for (const event of ['execution_success', 'execution_error'])"
            " app.api.addEventListener(event, () => window.ended = event, {once: true})"
        )
        self.page.get_by_role("button", name="Run", exact=True).filter(visible=True).first.click()  # app or graph
        refused = "Object.keys(app.extensionManager.lastNodeErrors ?? {}).length && 'refused'"
        self.page.wait_for_function(f"window.ended || {refused}", timeout=RUN_MS)
        return self.page.evaluate(f"window.ended || {refused}")

    def pictures_shown(self, count: int) -> list[tuple[str, list[int]]]:
        """The titles of the nodes with pictures and their widths, once as many nodes as that show them all."""
        self.look_at_all()  # nodes out of sight load none
        self.page.wait_for_function(f"({PICTURES_SHOWN})().length >= {count}")
        return [(title, widths) for title, widths in self.page.evaluate(PICTURES_SHOWN)]
