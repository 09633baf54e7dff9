"""dev.py says what it could not run, last; where CI is set that is a failure."""

from __future__ import annotations

import pytest
from paths import ROOT


@pytest.fixture
def dev(dev, monkeypatch):
    monkeypatch.setattr(dev, "run", lambda *args, **kwargs: 0)
    monkeypatch.setattr(dev, "all_tests", lambda: 0)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return dev


@pytest.mark.parametrize("arguments", [[], ["browser"], ["all", "-q"]])
@pytest.mark.parametrize(("found", "ci", "code"), [(None, "", 0), (None, "true", 1), ("/a/chromium", "true", 0)])
def test_without_chromium(dev, monkeypatch, capsys, arguments, found, ci, code):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(dev, "chromium", lambda: found)
    assert dev.test(arguments) == code
    last = capsys.readouterr().out.splitlines()[-1:]
    assert bool(last and last[0].startswith("Not run: the browser tests. Reason: no Chromium")) == (found is None)


def test_tiers_without_a_browser_ask_for_none(dev, monkeypatch, capsys):
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(dev, "chromium", lambda: None)
    assert dev.test(["unit"]) == 0 and not capsys.readouterr().out


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_without_a_gpu(dev, monkeypatch, capsys, ci, code):
    monkeypatch.setenv("CI", ci)
    monkeypatch.delenv("TEST_DEVICE", raising=False)
    monkeypatch.setattr(dev, "python_and_host", lambda: ("false", None))  # a Python that finds no CUDA
    assert dev.test(["gpu"]) == code
    assert capsys.readouterr().out.endswith("Reason: PyTorch finds no CUDA device here.\n")


def test_files_run_alone(dev, monkeypatch):
    asked = []
    monkeypatch.setattr(dev, "run", lambda module, arguments, **_: asked.append(arguments) or 0)
    for arguments in (["tests/unit/test_dev.py", "-q"], ["tests/unit/test_dev.py::test_files_run_alone"]):
        assert dev.test(arguments) == 0 and asked.pop() == arguments


def test_ci_runs_the_command_of_the_readme():
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").endswith("\nexec python3 dev.py test\n")
    assert "\npython dev.py test  " in (ROOT / "README.md").read_text(encoding="utf-8")
