"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from paths import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tests" / "sticker_world").rglob("*.md")]
TOP = {path.name for path in ROOT.iterdir()} - {".dev", "demo"}  # those are made by a command
PATH = re.compile(r"`([\w.<>*/-]+)`")
LINK = re.compile(r"\]\(([^)#]+)\)")


def paths(text: str) -> set[str]:
    """Those in code marks: what begins with a folder or file of ours, and Python files. <name> stands for any."""
    named = {path for path in PATH.findall(text) if path.split("/")[0] in TOP or path.endswith(".py")}
    return {re.sub(r"<\w+>", "*", path) for path in named}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_link_exists(document: Path):
    text = re.sub(r"(?s)```.*?```", "", document.read_text(encoding="utf-8"))
    for path in paths(text):
        assert any(True for folder in (ROOT, document.parent) for _ in folder.glob(path.rstrip("/"))), path
    for link in LINK.findall(text):
        assert link.startswith("http") or (document.parent / unquote(link)).exists(), link
