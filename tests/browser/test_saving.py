"""Workflows that are saved, and opened again after the page was."""

from __future__ import annotations

from paths import ROOT

NODES = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))

CHANGE_ALL = """() => {
  for (const widget of app.graph.nodes.flatMap(node => node.widgets ?? [])) {
    const {value, options} = widget, choices = options.values;
    if (Array.isArray(choices)) widget.value = choices[(choices.indexOf(value) + 1) % choices.length];
    else if (typeof value === 'boolean') widget.value = !value;
    else if (typeof value === 'number') widget.value = value + (options.step2 ?? 1) <= options.max
      ? value + (options.step2 ?? 1) : value - (options.step2 ?? 1);
    else widget.value = `${value} changed`;
  }
}"""
VALUES = """() => Object.fromEntries(app.graph.nodes.map(node =>
  [node.type, Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.value]))]))"""


def test_every_setting_is_there_again(user):
    for node in NODES:
        user.place(node)
    first = user.page.evaluate(VALUES)
    user.page.evaluate(CHANGE_ALL)
    changed = user.page.evaluate(VALUES)
    for node in NODES:
        same = [name for name, value in first[node].items() if changed[node][name] == value]
        assert not same, f"{node}: {same} not changed"
    user.save("every setting")
    user.reload()
    user.page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    user.open_saved("every setting")
    assert user.page.evaluate(VALUES) == changed
