"""Imports run down: nodes -> sampling -> attention_hooks -> words, guidance; drawing stands apart.

guidance and drawing know no host, and no method's room imports another's.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from paths import ROOT

MAY_IMPORT = {
    "nodes": {"nodes", "sampling", "attention_hooks", "words", "guidance", "drawing"},
    "sampling": {"sampling", "attention_hooks", "words", "guidance"},
    "attention_hooks": {"attention_hooks", "words", "guidance"},
    "words": {"words"},
    "guidance": {"guidance"},
    "drawing": {"drawing"},
}
FOLDERS = list(MAY_IMPORT)
ROOMS = {path.parent.name for path in (ROOT / "sampling").glob("*/__init__.py")}
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


def reached(path: Path, level: int, module: str) -> tuple[str, ...]:
    """The folders and the module, from the root on, that a relative import reaches."""
    base = path.parent.relative_to(ROOT).parts
    return (*base[: len(base) - level + 1], *module.split("."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_down(path):
    folder = path.relative_to(ROOT).parts[0]
    for level, module in imports(path):
        if level:
            target = reached(path, level, module)[0]
            assert target in MAY_IMPORT[folder], f"{folder} must not import {target}"
        else:
            assert module.split(".")[0] not in FOLDERS, "within the pack, imports are relative"


@pytest.mark.parametrize("path", sorted((ROOT / "sampling").rglob("*.py")), ids=lambda path: path.name)
def test_no_methods_room_imports_anothers(path):
    own = path.relative_to(ROOT / "sampling").parts[0]
    for level, module in imports(path):
        target = reached(path, level, module)
        if level and target[0] == "sampling" and target[1] in ROOMS:
            assert target[1] == own, f"{own} must not import {target[1]}"


def test_guidance_imports_torch_alone():
    for path in (ROOT / "guidance").glob("*.py"):
        absolute = {module.split(".")[0] for level, module in imports(path) if level == 0}
        assert absolute <= PURE, path.name


def test_drawing_stands_alone():
    for path in (ROOT / "drawing").rglob("*.py"):
        assert {reached(path, level, module)[0] for level, module in imports(path) if level} <= {"drawing"}
        assert {module.split(".")[0] for level, module in imports(path) if level == 0} <= PURE | {"numpy", "PIL"}
