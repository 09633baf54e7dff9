"""Ruff over the repository, mypy over what is shipped and what dev.py needs. Settings are in pyproject.toml."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from paths import ROOT, TESTS
from shipped import not_ignored, shipped

DEV = ("chromium", "environment", "hosts", "paths", "processes")  # what dev.py reads in tests/
PACK = "semantic_guidance"  # the folder of a checkout may have a name that is none for a package


def run(*command: str, folder: Path = ROOT) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff():
    run("ruff", "check", ".")


def test_no_folder_that_a_command_leaves_changes_what_ruff_finds(tmp_path):
    """Pictures in ./demo, say, beside the module `demo` of tests/."""
    checkout = tmp_path / "checkout"
    sources = [path for path in not_ignored(".gitignore") if path.suffix == ".py"]
    for path in [*sources, Path("pyproject.toml")]:
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, checkout / path)
    for module in (ROOT / "tests").glob("*.py"):
        (checkout / module.stem).mkdir()
    run("ruff", "check", "--no-cache", ".", folder=checkout)


def test_mypy(tmp_path):
    sources = [path for path in shipped() if path.suffix == ".py"]
    for path in sources:
        (tmp_path / PACK / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / PACK / path)
    for path in (ROOT / "dev.py", *(TESTS / f"{name}.py" for name in DEV)):
        shutil.copy(path, tmp_path)
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    run("mypy", *settings, "--package", PACK, "--module", "dev", folder=tmp_path)
