#!/usr/bin/env python3
"""Everything a developer does, from nothing but Python 3.10 to 3.13:

    python dev.py demo [--method NAME] [--prompt TEXT] [--seed N] [--model NAME | --checkpoint FILE] [--output DIR]
        a sheet in ./demo: what each method does, with and without it; or one method, also on your own words
    python dev.py test [lint|unit|host|server|browser|world|gpu|all | FILE ...] [pytest arguments]
        without arguments: everything but gpu, and the server tests on the oldest supported ComfyUI as well
        gpu: what must hold on any device, on CUDA in three precisions (on TEST_DEVICE, where it is set)
    python dev.py matrix [VERSION ...]
        the server tests on releases of ComfyUI, from archives or tags, else on all of tests/hosts.py: docs/hosts.md
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

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TESTS = ROOT / "tests"
sys.path.insert(0, str(TESTS))

# These in tests/ need nothing but Python.
from chromium import MISSING, chromium  # noqa: E402
from environment import DEV, HOST, ONE_THREAD, SetupError, borrowed_tools, python_and_host  # noqa: E402
from hosts import ARCHIVES, OLDEST, matrix, server_tests  # noqa: E402
from processes import Command, in_turn, start, wait  # noqa: E402

# `test` runs these side by side, each on a core of its own; they take about as long.
FIRST = ["tests/lint", "tests/unit", "tests/host"]
SECOND = ["tests/server", "tests/sticker_world", "tests/browser"]  # the browser last: it leaves an event loop running
TIERS = {
    "lint": ["tests/lint"],
    "unit": ["tests/unit"],
    "host": ["tests/host"],
    "server": ["tests/server"],
    "browser": ["tests/browser"],
    "world": ["tests/sticker_world"],
    "gpu": ["tests/host", "-m", "identity"],
    "all": [*FIRST, *SECOND],
}
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
        return wait(start(Command([sys.executable, str(TESTS / "release.py"), *rest], dict(os.environ), ROOT)))
    if command in MODULES:
        return run(MODULES[command], rest, with_host=True)
    raise SetupError(f"there is no command {command!r}; python dev.py --help lists them")


def test(arguments: list[str]) -> int:
    """Run a tier, or files; without any arguments all tiers, and the server tests on the oldest ComfyUI as well."""
    if arguments and (ROOT / arguments[0].partition("::")[0]).exists():
        return run("pytest", arguments, folder=ROOT)
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
    """All tiers, and the server tests on the oldest ComfyUI, by two processes at once; what the second says follows."""
    uncached = ["-p", "no:cacheprovider"]  # pytest's cache is the first one's
    first = command_of("pytest", FIRST, ROOT)
    second = {
        "The tests of the server, Sticker World and the browser": command_of("pytest", [*SECOND, *uncached], ROOT),
        f"The server tests on ComfyUI {OLDEST}, the oldest supported": server_tests(OLDEST, uncached),
    }
    report = DEV / "second.log"
    with report.open("w", encoding="utf-8") as output:
        running = start(first)
        code = in_turn(second, output)
    code = wait(running) or code
    print(report.read_text(encoding="utf-8", errors="replace"), end="", flush=True)
    return code


def gpu_tests(arguments: list[str]) -> int:
    """The tests that must hold on any device, in each precision; without CUDA only where TEST_DEVICE names a device."""
    python, _ = python_and_host()
    device = os.environ.get("TEST_DEVICE", "cuda")
    test = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if device == "cuda" and subprocess.run([str(python), "-c", test], check=False).returncode:
        return not_run("the tests on a GPU", "PyTorch finds no CUDA device here")
    tests = command_of("pytest", [*TIERS["gpu"], *arguments], ROOT)
    settings = {precision: {"TEST_DEVICE": device, "TEST_PRECISION": precision} for precision in PRECISIONS}
    return in_turn({
        f"{precision} on {device}": tests._replace(environment=tests.environment | setting)
        for precision, setting in settings.items()
    })


def not_run(what: str, why: str) -> int:
    """Say it last, where it is seen. Where CI is set nothing may be left out, so that is a failure there."""
    print(f"\nNot run: {what}. Reason: {why}.")
    return int(os.environ.get("CI") == "true")


def run(module: str, arguments: list[str], folder: Path | None = None, with_host: bool = False) -> int:
    """Run a module of tests/ in the environment and return its exit code."""
    return wait(start(command_of(module, arguments, folder, with_host)))


def command_of(module: str, arguments: list[str], folder: Path | None = None, with_host: bool = False) -> Command:
    python, host = python_and_host()
    environment = dict(os.environ, COMFYUI_PATH=str(host), PYTHONUTF8="1")
    if module == "pytest":
        environment |= ONE_THREAD
    paths = [str(TESTS)]
    if host != HOST:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        paths += borrowed_tools(python) if module == "pytest" else []
    if with_host:
        paths.append(str(host))
    return Command([str(python), "-c", LAUNCHER.format(paths), module, *arguments], environment, folder)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"dev.py: {error}")
    except KeyboardInterrupt:
        sys.exit("dev.py: stopped")
