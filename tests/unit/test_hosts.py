"""A release of ComfyUI that no archive carries comes from its tag."""

from __future__ import annotations

import subprocess

import hosts
import pytest
from environment import SetupError


@pytest.fixture
def repository(monkeypatch, tmp_path):
    folder = tmp_path / "ComfyUI"
    folder.mkdir()
    (folder / "main.py").write_text("")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["add", "main.py"], [*identity, "commit", "--quiet", "-m", "a"],
                    ["tag", "v9.8.7"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    monkeypatch.setattr(hosts, "REPOSITORY", folder.as_uri())


def test_its_tree_is_that_of_the_tag(repository, tmp_path):
    hosts.clone_tag("9.8.7", tmp_path / "hosts" / "9.8.7")
    assert (tmp_path / "hosts" / "9.8.7" / "main.py").is_file()


def test_without_the_tag_the_archives_are_named(repository, tmp_path):
    with pytest.raises(SetupError, match=r"tag v9\.9\.9 from .* There are archives of .*0\.18\.2"):
        hosts.clone_tag("9.9.9", tmp_path / "hosts" / "9.9.9")
