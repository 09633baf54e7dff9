"""The archive of the registry holds what a user needs, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import hosts
import release
from paths import ROOT
from shipped import shipped

KINDS = {
    ".": {"LICENSE", "README.md", "__init__.py", "pyproject.toml"},
    "attention_hooks": {".py"},
    "drawing": {".py"},
    "guidance": {".py"},
    "nodes": {".py"},
    "sampling": {".py"},
    "words": {".py"},
    "locales": {".json"},
    "subgraphs": {".json"},
    "web": {".md", ".webp"},
    "workflows": {".json", ".jpg"},
}
NOT_SHIPPED = {"__pycache__", "en"}  # the English of locales/ is what the nodes say themselves
PICTURE_BYTES = 16_000


def test_only_what_a_user_needs_is_shipped():
    for path in shipped():
        top = path.parts[0] if len(path.parts) > 1 else "."
        assert path.name in KINDS["."] if top == "." else path.suffix in KINDS.get(top, set()), path


def test_everything_that_the_pack_consists_of_is_shipped():
    assert (release.FILES, release.FOLDERS) == (KINDS["."], KINDS.keys() - {"."})
    files = shipped()
    assert {Path(name) for name in KINDS["."]} <= set(files)
    for folder in KINDS.keys() - {"."}:
        on_disk = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {path for path in on_disk if path.parent.name not in NOT_SHIPPED} <= set(files)


def test_the_archive_is_small():
    assert release.archive_bytes(ROOT, {path.as_posix() for path in shipped()}) < release.LIMIT


def test_every_picture_is_small():
    for path in shipped():
        if path.suffix in (".jpg", ".webp"):
            assert 0 < (ROOT / path).stat().st_size < PICTURE_BYTES, path


def test_the_oldest_host_is_said_alike_everywhere():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = re.search(r'requires-comfyui = ">=([\d.]+)"', text)[1]
    assert oldest == hosts.OLDEST
    assert f"OLDEST = ({oldest.replace('.', ', ')})" in (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert f"ComfyUI {oldest} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_accelerator_is_named():
    """The front end's manager compares its "CUDA" with "GPU :: NVIDIA CUDA" and lists the pack as conflicting.

    Without a list it takes the pack for one that runs on all of them.
    """
    assert "Environment ::" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
