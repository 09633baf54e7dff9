from __future__ import annotations

import pytest
from comfy_server import CUSTOM_NODES, comfy_server
from paths import TESTS

FUZZ_REPORT = pytest.StashKey[dict]()


@pytest.fixture(scope="session")
def comfy():
    """A client of one server that all tests of the session share."""
    with comfy_server(custom_nodes={**CUSTOM_NODES, "stand_ins": TESTS / "stand_ins"}) as client:
        yield client


def pytest_configure(config):
    config.stash[FUZZ_REPORT] = {}


@pytest.fixture
def fuzz_report(pytestconfig):
    """Node -> how its fuzzed cases ended; shown in the summary."""
    return pytestconfig.stash[FUZZ_REPORT]


def pytest_terminal_summary(terminalreporter, config):
    report = config.stash[FUZZ_REPORT]
    if report:
        total = sum(sum(outcomes.values()) for outcomes in report.values())
        terminalreporter.section(f"{total} fuzzed cases")
        for name, outcomes in report.items():
            ends = ", ".join(f"{count} {end}" for end, count in sorted(outcomes.items()))
            terminalreporter.line(f"{name}: {ends}")
