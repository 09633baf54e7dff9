"""A release, up to what only its maintainer can do: `python dev.py release X.Y.Z [--checked]`.

Names everything that is not ready at once, and then changes nothing. Where all is ready it sets the version and says
what is left to do. The tests run last, and only where the rest is ready; --checked says that they have passed.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import translated
from hosts import ARCHIVES, OLDEST, number
from paths import ROOT

LIMIT = 10**6  # bytes of the registry's archive
FILES = {"LICENSE", "README.md", "__init__.py", "pyproject.toml"}
FOLDERS = {
    "attention_hooks", "drawing", "guidance", "locales", "nodes", "sampling", "subgraphs", "web", "words", "workflows",
}  # fmt: skip
# Where the version stands, and how.
STANDS = {
    "pyproject.toml": re.compile(r'(?m)^(version = ")([^"]+)'),
    ".github/ISSUE_TEMPLATE/bug_report.yml": re.compile(r"(placeholder: )(\d+\.\d+\.\d+)(?=, ComfyUI)"),
}
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


def main(arguments: list[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="dev.py release", description="Check that all is ready; set the version.")
    parser.add_argument("version", metavar="X.Y.Z", type=version)
    parser.add_argument("--checked", action="store_true", help="python dev.py test has passed on this commit")
    options = parser.parse_args(arguments)
    found = complaints(root, options.version)
    tests = [sys.executable, str(root / "dev.py"), "test"]
    if not found and not options.checked and subprocess.run(tests, cwd=root, check=False).returncode:
        found = ["the tests do not pass: see above"]
    elif found and not options.checked:
        found.append("the tests were not run, as the rest is not ready")
    if found:
        print(f"{options.version} is not ready, and nothing was changed:")
        print(*(f"- {complaint}" for complaint in found), sep="\n")
        return 1
    print(*what_is_left(options.version, changed=set_version(root, options.version)), sep="\n")
    return 0


def version(text: str) -> str:
    if not VERSION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version of three numbers, such as 1.2.0")
    return text


def complaints(root: Path, new: str) -> list[str]:
    """One sentence for everything that is not ready."""
    return [
        *of_the_checkout(root), *of_the_version(root, new), *of_the_changelog(root, new), *of_the_languages(root),
        *of_the_hosts(root), *of_the_archive(root),
    ]  # fmt: skip


def of_the_checkout(root: Path) -> list[str]:
    found = []
    branch = git(root, "branch", "--show-current").strip()
    if branch != "main":
        found.append(f"the branch is {branch or 'none'}, not main")
    changed = [line[3:] for line in git(root, "status", "--porcelain").splitlines()]
    if changed:
        found.append(f"not committed: {listed(changed)}")
    return found


def of_the_version(root: Path, new: str) -> list[str]:
    """Greater than every tag vX.Y.Z; as great as where it stands at least, so that the first can be released."""
    stands = {path: [match[2] for match in pattern.finditer(read(root / path))] for path, pattern in STANDS.items()}
    found = [f"{path} says {len(olds)} versions, not one" for path, olds in stands.items() if len(olds) != 1]
    tags = [tag[1:] for tag in git(root, "tag", "--list", "v*").split() if VERSION.fullmatch(tag[1:])]
    last = max(tags, key=number, default=None)
    if last is not None and number(new) <= number(last):
        found.append(f"{new} is not greater than {last}, the last release (tag v{last})")
    now = max((old for olds in stands.values() for old in olds), key=number, default=new)
    if number(new) < number(now):
        found.append(f"{new} is less than {now}, which the repository already says")
    return found


def of_the_changelog(root: Path, new: str) -> list[str]:
    head, *entries = re.split(r"(?m)^## ", read(root / "CHANGELOG.md"))
    texts = [entry.split("\n", 1)[1].strip() for entry in entries if entry.split("\n", 1)[0].split()[:1] == [new]]
    if not texts:
        return [f"CHANGELOG.md has no entry '## {new}'"]
    return [] if texts[0] else [f"the entry '## {new}' of CHANGELOG.md is empty"]


def of_the_languages(root: Path) -> list[str]:
    """Every text and help page is translated, from the English as it is now."""
    return [
        f"{language}: {len(left)} texts are not translated: {translated.listed(left)}"
        for language in translated.languages(root) if (left := translated.unfinished(language, root))
    ]  # fmt: skip


def of_the_hosts(root: Path) -> list[str]:
    """docs/hosts.md has a row without a failure for every supported release of ComfyUI that is known."""
    row = re.compile(r"(?m)^\| ([\d.]+) \| (\d+) \| (\d+) \|")
    rows = {match[1]: (int(match[2]), int(match[3])) for match in row.finditer(read(root / "docs" / "hosts.md"))}
    found = []
    for host in ARCHIVES:
        passed, failed = rows.get(host, (0, 0))
        if number(host) >= number(OLDEST) and (failed or not passed):
            what = f"{failed} tests failed" if failed else "no test has passed"
            found.append(f"docs/hosts.md: on ComfyUI {host} {what}; python dev.py matrix {host}")
    return found


def of_the_archive(root: Path) -> list[str]:
    """As the registry makes it: what git tracks, without what .comfyignore names."""
    paths = archived(root)
    missing = sorted(FILES - paths | FOLDERS - {path.split("/")[0] for path in paths if "/" in path})
    found = [f"the archive lacks {listed(missing)}"] if missing else []
    size = archive_bytes(root, paths)
    if size > LIMIT:
        found.append(f"the archive has {size} bytes; its limit is {LIMIT}")
    return found


def archived(root: Path) -> set[str]:
    tracked, ignored = git(root, "ls-files", "-z"), git(root, "ls-files", "-zic", "--exclude-from=.comfyignore")
    return {path for path in tracked.split("\0") if path} - {*ignored.split("\0")}


def archive_bytes(root: Path, paths: set[str]) -> int:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(paths):
            if (root / path).is_file():  # else it is deleted and not committed
                packed.write(root / path, path)
    return len(archive.getvalue())


def set_version(root: Path, new: str) -> bool:
    """Write the version wherever it stands; whether that changed anything."""
    changed = False
    for path, pattern in STANDS.items():
        old = read(root / path)
        text = pattern.sub(lambda match: match[1] + new, old)
        (root / path).write_bytes(text.encode())
        changed |= text != old
    return changed


def what_is_left(new: str, changed: bool) -> list[str]:
    push = [f"  git tag v{new}", f"  git push origin main v{new}"]
    if changed:
        files = " ".join(STANDS)
        return [
            f"All is ready, and the version is {new} in {listed(list(STANDS))}. What is left:",
            "  git diff", f'  git commit -m "Release {new}" {files}', *push,
            "The push starts the workflow Publish, which tests again and gives the archive to the registry.",
        ]  # fmt: skip
    return [
        f"All is ready, and the version was {new} already. What is left:", *push,
        "Then start the workflow Publish by hand: pyproject.toml did not change, so the push does not.",
    ]


def git(root: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    if result.returncode:
        sys.exit(f"dev.py release: git {arguments[0]}: {result.stderr.decode().strip()}")
    return result.stdout.decode()


def read(path: Path) -> str:
    return path.read_bytes().decode()  # line ends stay as they are


def listed(names, most: int = 3) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
