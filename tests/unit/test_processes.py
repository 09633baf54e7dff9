"""Tests one after the other, as `python dev.py test` runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from paths import TESTS
from processes import Command, in_turn


def ends_with(code: int) -> Command:
    return Command([sys.executable, "-c", f"print('ran', flush=True); raise SystemExit({code})"], dict(os.environ))


@pytest.mark.parametrize(
    ("codes", "ran", "expected"),
    [([0, 0], 2, 0), ([1, 0], 2, 1), ([0, 1], 2, 1), ([2, 0], 1, 2), ([-15 % 256, 0], 1, 241), ([1, 2, 0], 2, 2)],
)
def test_all_run_unless_one_is_stopped(tmp_path, codes, ran, expected):
    with open(tmp_path / "said", "w") as output:
        code = in_turn({f"number {number}": ends_with(code) for number, code in enumerate(codes)}, output)
    said = "".join(f"\nnumber {number}:\nran\n" for number in range(ran))
    assert (code, (tmp_path / "said").read_text()) == (expected, said)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could handle")
def test_a_polite_kill_ends_what_runs_and_starts_nothing_more():
    code = (
        "import os, sys; from processes import Command, in_turn\n"
        "sleeps = [sys.executable, '-c', 'import time; print(\"runs\", flush=True); time.sleep(600)']\n"
        "sys.exit(in_turn(dict.fromkeys(['first', 'second'], Command(sleeps, dict(os.environ)))) != -15)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=TESTS, stdout=subprocess.PIPE, text=True)
    assert [process.stdout.readline() for _ in range(3)] == ["\n", "first:\n", "runs\n"]
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "" and process.returncode == 0


@pytest.mark.parametrize(("codes", "expected"), [((0, 0, 0), 0), ((1, 0, 0), 1), ((0, 0, 1), 1), ((0, 1, 0), 1)])
def test_everything_is_said_in_order_though_two_run_at_once(dev, monkeypatch, tmp_path, capfd, codes, expected):
    first, second, oldest = codes
    monkeypatch.setattr(dev, "DEV", tmp_path)
    monkeypatch.setattr(dev, "command_of", lambda module, paths, folder: ends_with(
        second if dev.SECOND[0] in paths else first
    ))
    monkeypatch.setattr(dev, "server_tests", lambda version, options: ends_with(oldest))
    assert dev.all_tests() == expected
    said = capfd.readouterr().out.splitlines()
    assert [line for line in said if line == "ran"] == 3 * ["ran"]
    assert said[0] == "ran" and said[-2].startswith(f"The server tests on ComfyUI {dev.OLDEST}, the oldest")
