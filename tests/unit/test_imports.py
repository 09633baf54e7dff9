"""Imports run one way: nodes -> attention_hooks -> guidance. guidance and drawing know no host."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from paths import ROOT

FOLDERS = ["nodes", "drawing", "attention_hooks", "guidance"]  # each may import itself and what comes after it
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PURE = {"torch", "einops", *sys.stdlib_module_names}


def imports(path: Path) -> list[tuple[int, str]]:
    """(level, module) of every import in a file; level 0 is absolute, 1 the file's own folder, 2 the one above."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module or alias.name) for alias in node.names]
    return found


def own_folder(path: Path, level: int, module: str) -> str:
    """The folder of the pack that a relative import reaches."""
    base = path.parent.relative_to(ROOT).parts
    return (*base[: len(base) - level + 1], *module.split("."))[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    folder = path.relative_to(ROOT).parts[0]
    allowed = FOLDERS[FOLDERS.index(folder) :]
    for level, module in imports(path):
        if level:
            assert own_folder(path, level, module) in allowed, f"{folder} must not import {module}"
        else:
            assert module.split(".")[0] not in FOLDERS, "within the pack, imports are relative"


def test_guidance_imports_torch_alone():
    for path in (ROOT / "guidance").glob("*.py"):
        absolute = {module.split(".")[0] for level, module in imports(path) if level == 0}
        assert absolute <= PURE, path.name


def test_drawing_stands_alone():
    for path in (ROOT / "drawing").rglob("*.py"):
        assert {own_folder(path, level, module) for level, module in imports(path) if level} <= {"drawing"}
        assert {module.split(".")[0] for level, module in imports(path) if level == 0} <= PURE | {"numpy", "PIL"}
