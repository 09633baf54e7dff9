"""The files that a user of the pack gets, by .gitignore and .comfyignore as the registry's tool reads them."""

from __future__ import annotations

import os
from pathlib import Path

from paths import ROOT
from pathspec import GitIgnoreSpec


def shipped() -> list[Path]:
    """Relative to the root, sorted."""
    return not_ignored(".gitignore", ".comfyignore")


def not_ignored(*lists: str) -> list[Path]:
    """The files that none of these lists names, relative to the root, sorted."""
    lines = [line for name in lists for line in (ROOT / name).read_text().splitlines()]
    ignored = GitIgnoreSpec.from_lines([".git", *lines])
    found = []
    for folder, folders, files in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        folders[:] = [name for name in folders if not ignored.match_file(f"{(here / name).as_posix()}/")]
        found += [here / name for name in files if not ignored.match_file((here / name).as_posix())]
    return sorted(found)
