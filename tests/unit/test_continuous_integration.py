"""The workflows of .github/ in themselves: what they name is there, and they may only read."""

from __future__ import annotations

import re

import pytest
import yaml
from paths import ROOT

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.yml")}
TESTS = WORKFLOWS["test.yml"]["jobs"]["test"]


def commands(job: dict) -> str:
    return "\n".join(step.get("run", "") for step in job.get("steps", []))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read_and_refers_to_what_there_is(name):
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"} and True in workflow  # YAML's `on`
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert ("uses" in job) != ("steps" in job and "runs-on" in job)
        assert not job.get("uses", "").startswith("./") or (ROOT / job["uses"]).is_file()
        assert {job["needs"]} <= workflow["jobs"].keys() if "needs" in job else True
        steps = {step["id"] for step in job.get("steps", []) if "id" in step}
        assert set(re.findall(r"steps\.(\w+)\.outputs", str(job))) <= steps
        for step in job.get("steps", []):
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) if "uses" in step else True


def test_every_python_and_system_is_tested():
    rows = TESTS["strategy"]["matrix"]["include"]
    assert {row["python"] for row in rows} == {"3.10", "3.11", "3.12", "3.13"}
    assert {row["os"] for row in rows} == {"ubuntu-latest", "windows-latest", "macos-latest"}


def test_the_tiers_that_run_are_those_of_dev_py(dev):
    tiers = dev.TIERS
    assert set(re.findall(r"dev\.py test (\w+)", commands(TESTS))) <= tiers.keys()
    [loop] = re.findall(r"for tier in ([\w ]+);", commands(TESTS))
    assert sorted(path for tier in [*loop.split(), "lint", "browser"] for path in tiers[tier]) == sorted(tiers["all"])


def test_the_pieces_of_python_run():
    """Those between <<'END' and END."""
    pieces = re.findall(r"(?s)<<'END'\n(.*?)\nEND\n", commands(TESTS))
    assert len(pieces) == 2
    for piece in pieces:
        compile(piece, "test.yml", "exec")
