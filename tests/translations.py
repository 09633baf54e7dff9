"""English node texts and the tables of the help pages, from the nodes: `python -m translations` writes them.

locales/en/ is what the nodes say themselves; the other languages have the same keys. In every help page
the rows of the first two tables (inputs, outputs) are written from these texts; everything else there is by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from paths import ROOT, TESTS, use_host

LANGUAGES = ["en", "zh", "ja", "ko", "fr", "de", "es", "ru"]
FOLDER = ROOT / "locales"
PAGES = ROOT / "web" / "docs"
ROWS = re.compile(r"(?<=\|\n)(\|(?:---\|)+\n)((?:\|.*\n)*)")  # of a Markdown table: the line under its head, the rest
# What the table cells say besides the nodes' texts: yes, no, advanced, default.
CELLS = json.loads((TESTS / "help_cells.json").read_text(encoding="utf-8"))


def texts(language: str) -> dict:
    """node_id -> the node's texts."""
    return json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))


def categories(language: str) -> dict[str, str]:
    return json.loads((FOLDER / language / "main.json").read_text(encoding="utf-8"))["nodeCategories"]


def page(node_id: str, language: str) -> Path:
    """Where the front end looks for the help of a node."""
    return PAGES / f"{node_id}.md" if language == "en" else PAGES / node_id / f"{language}.md"


def schemas() -> dict:
    """node_id -> schema of every node, in the order of the pack."""
    use_host()
    from semantic_guidance.nodes import NODES

    return {schema.node_id: schema for schema in (node.define_schema() for node in NODES)}


def english(schema) -> dict:
    """A node's texts. Outputs without a name of their own have their type's, which the front end translates."""
    inputs = {key(entry.id): {"name": entry.id, "tooltip": entry.tooltip} for entry in schema.inputs}
    outputs = {
        str(number): ({"name": entry.display_name} if entry.display_name else {}) | {"tooltip": entry.tooltip}
        for number, entry in enumerate(schema.outputs)
    }
    return {
        "display_name": schema.display_name, "description": schema.description, "inputs": inputs, "outputs": outputs,
    }


def english_categories(found: dict) -> dict[str, str]:
    """The front end translates each level of a category by itself."""
    return {level: level for schema in found.values() for level in schema.category.split("/")}


def key(name: str) -> str:
    """As the front end looks it up, where a dot would mean a level more."""
    return name.replace(".", "_")


def with_tables(content: str, schema, node: dict, cells: dict[str, str]) -> str:
    """A help page with the rows of its tables of inputs and outputs as they should be. node: its texts."""
    tables = iter([
        [input_row(entry, node["inputs"][key(entry.id)], cells) for entry in schema.inputs],
        [output_row(entry, node["outputs"][str(number)]) for number, entry in enumerate(schema.outputs)],
    ])
    return ROWS.sub(lambda table: table[1] + "".join(next(tables, [table[2]])), content)


def input_row(entry, text: dict, cells: dict[str, str]) -> str:
    name = f"`{entry.id}`" if text["name"] == entry.id else f"{text['name']} `{entry.id}`"
    needed = cells["no" if entry.optional else "advanced" if getattr(entry, "advanced", False) else "yes"]
    return f"| {name} | {text['tooltip']} | {entry.io_type} | {needed} | {span(entry, cells['default'])} |\n"


def output_row(entry, text: dict) -> str:
    if not entry.display_name:
        name = f"`{entry.io_type}`"
    else:
        name = f"`{entry.display_name}`" if text["name"] == entry.display_name else text["name"]
    return f"| {name} | {text['tooltip']} | {entry.io_type} |\n"


def span(entry, default: str) -> str:
    """What a widget can be set to, and what it is at first; empty for a socket."""
    if not hasattr(entry, "default") or entry.default in (None, ""):
        return ""
    if entry.io_type == "COMBO":
        return f"{', '.join(f'`{option}`' for option in entry.options)}; {default} `{entry.default}`"
    if entry.io_type == "BOOLEAN":
        return f"{default} `{str(entry.default).lower()}`"
    return f"{entry.min} - {entry.max}; {default} {entry.default}"


def main() -> None:
    found = schemas()
    write("nodeDefs.json", {node_id: english(schema) for node_id, schema in found.items()})
    write("main.json", {"nodeCategories": english_categories(found)})
    for language in LANGUAGES:
        for node_id, schema in found.items():
            help_page = page(node_id, language)
            content = help_page.read_text(encoding="utf-8")
            tables = with_tables(content, schema, texts(language)[node_id], CELLS[language])
            help_page.write_text(tables, encoding="utf-8", newline="\n")


def write(name: str, content: dict) -> None:
    path = FOLDER / "en" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
