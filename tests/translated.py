"""Which translations are missing, and which are older than their English.

A change of the English asks nothing of the other languages until a release: `python dev.py release` names what is left.
tests/translated/ has a file a language: for each text, marks of the English and of its translation as they were when
the one was made of the other. Where both have changed since, it was translated anew; `python -m translations` notes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from paths import ROOT

TABLE = re.compile(r"(?m)^\|.*\n")  # written by translations.py
MISSING, OLDER = "missing", "older than the English"


def languages(root: Path = ROOT) -> list[str]:
    return sorted(path.name for path in (root / "locales").iterdir() if path.is_dir() and path.name != "en")


def page(node_id: str, language: str, root: Path = ROOT) -> Path:
    """Where the front end looks for the help of a node; where there is none in a language it takes the English."""
    folder = root / "web" / "docs"
    return folder / f"{node_id}.md" if language == "en" else folder / node_id / f"{language}.md"


def texts(language: str, root: Path = ROOT) -> dict[str, str]:
    """All that is to be translated, by its place: node.inputs.name.tooltip, or "help of node" without the tables."""
    folder = root / "locales" / language
    nodes = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
    found = leaves(nodes) | leaves(json.loads((folder / "main.json").read_text(encoding="utf-8")))
    for node_id in json.loads((root / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")):
        path = page(node_id, language, root)
        if path.is_file():
            found[f"help of {node_id}"] = TABLE.sub("", path.read_text(encoding="utf-8"))
    return found


def leaves(nested: dict, above: str = "") -> dict[str, str]:
    found = {}
    for key, value in nested.items():
        found |= leaves(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def marks(language: str, root: Path = ROOT) -> dict[str, list[str]]:
    """place -> the marks of the English and of the translation."""
    path = ledger(language, root)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def ledger(language: str, root: Path = ROOT) -> Path:
    return root / "tests" / "translated" / f"{language}.json"


def unfinished(language: str, root: Path = ROOT) -> dict[str, str]:
    """place -> MISSING or OLDER."""
    english, translated, noted = texts("en", root), texts(language, root), marks(language, root)
    found = {}
    for place, text in english.items():
        if place not in translated:
            found[place] = MISSING
        elif place in noted:
            before, after = noted[place]
            if before != mark(text) and after == mark(translated[place]):
                found[place] = OLDER
    return found


def noted(language: str, root: Path = ROOT) -> dict[str, list[str]]:
    """The marks as they should be: those of what is older stay as they were."""
    english, translated = texts("en", root), texts(language, root)
    old, left = marks(language, root), unfinished(language, root)
    return {
        place: old[place] if place in left else [mark(english[place]), mark(translated[place])]
        for place in english if left.get(place) != MISSING
    }  # fmt: skip


def note(language: str, still_right: bool = False, root: Path = ROOT) -> None:
    """Write the marks. still_right: what is older than the English is right all the same."""
    path = ledger(language, root)
    if still_right:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(f'  "{place}": {json.dumps(pair)}' for place, pair in noted(language, root).items())
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8", newline="\n")


def listed(found: dict[str, str], most: int = 3) -> str:
    """ "a (missing), b (older than the English) and 3 more"."""
    named = [f"{place} ({why})" for place, why in list(found.items())[:most]]
    return ", ".join(named) + (f" and {len(found) - most} more" if len(found) > most else "")
