"""English node texts and the tables of the help pages, from the nodes: `python -m translations` writes them.

locales/en/ is what the nodes say themselves; what English no longer has is taken out of the other languages, and where
they lack a text the front end shows the English. In every help page the rows of the first two tables (inputs, outputs)
are written from these texts; everything else there is by hand. It tells at the end what is left to translate.
"""

from __future__ import annotations

import argparse
import json
import re

import translated
from paths import ROOT, TESTS, use_host

LANGUAGES = ["en", *translated.languages()]
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


def kept(nested: dict, english: dict) -> dict:
    """What English has too, in its order."""
    return {
        key: kept(nested[key], text) if isinstance(text, dict) else nested[key]
        for key, text in english.items() if key in nested
    }  # fmt: skip


def filled(nested: dict, english: dict) -> dict:
    """With the English where a text is missing."""
    return {
        key: filled(nested.get(key, {}), text) if isinstance(text, dict) else nested.get(key, text)
        for key, text in english.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--still-right", nargs="*", default=[], choices=LANGUAGES[1:], metavar="LANGUAGE",
                        help="what is older than the English in this language is right all the same")
    still_right = parser.parse_args().still_right
    found = schemas()
    english_texts = {node_id: english(schema) for node_id, schema in found.items()}
    english_names = {"nodeCategories": english_categories(found)}
    write("en", english_texts, english_names)
    for language in LANGUAGES:
        nodes = kept(texts(language), english_texts)
        write(language, nodes, kept({"nodeCategories": categories(language)}, english_names))
        for node_id, schema in found.items():
            page = translated.page(node_id, language)
            if page.is_file():
                node = filled(nodes, english_texts)[node_id]
                content = with_tables(page.read_text(encoding="utf-8"), schema, node, CELLS[language])
                page.write_text(content, encoding="utf-8", newline="\n")
    for language in LANGUAGES[1:]:
        translated.note(language, still_right=language in still_right)
        if left := translated.unfinished(language):
            print(f"{language}: {len(left)} left: {translated.listed(left)}")


def write(language: str, nodes: dict, names: dict) -> None:
    folder = FOLDER / language
    for name, content in (("nodeDefs.json", nodes), ("main.json", names)):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
