"""`python dev.py release`, on a copy of what it looks at."""

from __future__ import annotations

import json
import random
import shutil
import subprocess

import pytest
import release
import translated
from hosts import ARCHIVES
from paths import ROOT
from shipped import shipped

OTHERS = [
    ".comfyignore", ".gitignore", "CHANGELOG.md", "dev.py", "docs/hosts.md", "locales/en/main.json",
    "locales/en/nodeDefs.json", *release.STANDS,
]  # fmt: skip
NEW = "7.0.0"
HOSTS = "\n".join(f"| {host} | 60 | 0 | |" for host in ARCHIVES)


def git(folder, *arguments):
    names = ["-c", "user.name=x", "-c", "user.email=x", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"]
    subprocess.run(["git", *names, *arguments], cwd=folder, capture_output=True, check=True)


def commit(folder):
    git(folder, "add", "--all")
    git(folder, "commit", "--allow-empty", "--no-verify", "-m", "x")


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def translate(folder, language):
    """All of it, word by word."""
    for name in ("nodeDefs.json", "main.json"):
        shutil.copy(folder / "locales" / "en" / name, folder / "locales" / language / name)
    for english in (folder / "web" / "docs").glob("*.md"):
        page = translated.page(english.stem, language, folder)
        page.parent.mkdir(exist_ok=True)
        shutil.copy(english, page)
    translated.note(language, still_right=True, root=folder)


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A checkout from which 7.0.0 can be released, after 6.0.0."""
    folder = tmp_path_factory.mktemp("ready")
    for path in [*shipped(), *OTHERS]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    (folder / "tests").mkdir()
    for language in translated.languages(folder):
        translate(folder, language)
    append(folder / "CHANGELOG.md", f"\n## {NEW}\n\n- Something.\n")
    (folder / "docs" / "hosts.md").write_text(HOSTS)
    release.set_version(folder, "6.0.0")
    git(folder, "init", "--initial-branch=main")
    commit(folder)
    git(folder, "tag", "v6.0.0")
    return folder


@pytest.fixture
def checkout(ready, tmp_path):
    return shutil.copytree(ready, tmp_path / "checkout")


def tracked(folder):
    return {path: (folder / path).read_bytes() for path in release.git(folder, "ls-files", "-z").split("\0") if path}


def test_a_release_that_is_ready_sets_the_version_and_nothing_else(checkout, capsys):
    before = tracked(checkout)
    assert release.main([NEW, "--checked"], checkout) == 0
    after = tracked(checkout)
    assert {path for path in before if before[path] != after[path]} == set(release.STANDS)
    for path in release.STANDS:
        assert after[path] == before[path].replace(b"6.0.0", NEW.encode())
    assert f'git commit -m "Release {NEW}" {" ".join(release.STANDS)}' in capsys.readouterr().out


def test_the_first_release_may_have_the_version_that_stands_there(checkout, capsys):
    git(checkout, "tag", "--delete", "v6.0.0")
    append(checkout / "CHANGELOG.md", "\n## 6.0.0\n\n- Something.\n")
    commit(checkout)
    assert release.main(["6.0.0", "--checked"], checkout) == 0
    assert "Publish by hand" in capsys.readouterr().out and not release.of_the_checkout(checkout)


def test_every_complaint_is_named_at_once_and_nothing_changes(checkout, capsys):
    git(checkout, "switch", "--create", "work")
    (checkout / "LICENSE").unlink()
    (checkout / "web" / "docs" / "SemanticGuidanceSCFG" / "ja.md").unlink()
    (checkout / "drawing" / "large.py").write_bytes(random.Random(0).randbytes(400_000))
    path = checkout / "locales" / "fr" / "nodeDefs.json"
    texts = json.loads(path.read_text(encoding="utf-8"))
    del texts["SemanticGuidanceSCFG"]["inputs"]["strength"]["tooltip"]
    path.write_text(json.dumps(texts), encoding="utf-8")
    append(checkout / "web" / "docs" / "SemanticGuidanceSCFG.md", "More.\n")
    lines = HOSTS.splitlines()
    (checkout / "docs" / "hosts.md").write_text("\n".join([*lines[:-2], lines[-2].replace("60 | 0", "58 | 2")]))
    commit(checkout)
    append(checkout / "README.md", "changed")
    before = tracked(checkout)
    assert release.main(["6.0.0"], checkout) == 1
    said = capsys.readouterr().out
    hosts = list(ARCHIVES)
    for complaint in (
        "the branch is work, not main", "not committed: README.md", "6.0.0 is not greater than 6.0.0, the last release",
        "has no entry '## 6.0.0'", "ja: 1 texts are not translated: help of SemanticGuidanceSCFG (missing)",
        "fr: 2 texts are not translated: SemanticGuidanceSCFG.inputs.strength.tooltip (missing), "
        "help of SemanticGuidanceSCFG (older than the English)", f"ComfyUI {hosts[-2]} 2 tests failed",
        f"ComfyUI {hosts[-1]} no test has passed", "the archive lacks LICENSE", "its limit is", "tests were not run",
    ):  # fmt: skip
        assert complaint in said, complaint
    assert said.count("\n- ") == 9 + len(translated.languages(checkout)) and tracked(checkout) == before


def test_an_empty_entry_and_a_step_back_are_complaints(checkout):
    append(checkout / "CHANGELOG.md", "\n## 5.0.0\n")
    assert release.of_the_changelog(checkout, "5.0.0") == ["the entry '## 5.0.0' of CHANGELOG.md is empty"]
    assert "5.0.0 is less than 6.0.0, which the repository already says" in release.of_the_version(checkout, "5.0.0")


def test_failing_tests_are_a_complaint(checkout, capsys):
    path = checkout / "dev.py"
    path.write_text(f"raise SystemExit(5)\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
    commit(checkout)
    assert release.main([NEW], checkout) == 1
    assert "the tests do not pass" in capsys.readouterr().out and not release.of_the_checkout(checkout)


@pytest.mark.parametrize("text", ["1.0", "v1.0.0", "1.0.0rc1", "01.0.0", ""])
def test_what_is_no_version_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        release.main([text])
    assert "not a version of three numbers" in capsys.readouterr().err


def test_the_version_is_the_same_wherever_it_stands():
    assert len({release.STANDS[path].search(release.read(ROOT / path))[2] for path in release.STANDS}) == 1
