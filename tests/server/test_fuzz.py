"""Anything in any input: refused, or told in a sentence that names the node, or done. The server stays well."""

from __future__ import annotations

import json
import urllib.error
from collections import Counter

import pytest
from fuzzed_graphs import COMMON, GRAPHS, allowed_graphs, any_graphs
from hypothesis import HealthCheck, Phase, given, settings

CASES = 20  # for each of the tests, of every node
SECONDS = 120  # for one case; on an idle machine most take a tenth of a second
NAMES = (
    "S-CFG", "Attend-and-Excite", "SEGA", "Word Mask", "Region Preview", "Regional Prompts", "Region:",
    "Attention Curves", "Prompt with Words", "Guidance Schedule", "Guidance Meter", "Meter Curves", "Keep Apart",
    "Attention Loss",
)


@pytest.fixture(scope="module", autouse=True)
def well(comfy):
    """The same pictures before and after."""
    pictures = [normal_pictures(comfy)]
    yield
    comfy.forget()
    pictures.append(normal_pictures(comfy))
    assert pictures[0] == pictures[1], "after all these cases, a normal graph gives another picture"


def normal_pictures(comfy) -> list[bytes]:
    graph = COMMON | GRAPHS["RegionPreview"]
    return comfy.images(comfy.run(graph, timeout=SECONDS), "node")


def outcome(comfy, graph) -> str:
    """refused, failed or done; AssertionError for everything that a user should never see."""
    try:
        answer = json.loads(comfy.post("/prompt", json.dumps({"prompt": graph}).encode()))
    except urllib.error.HTTPError as refusal:
        assert refusal.code == 400, f"HTTP {refusal.code}"
        said = json.loads(refusal.read())
        assert said["error"]["message"]
        return "refused"
    assert not answer["node_errors"], "the only output was refused, and yet queued"
    status = comfy.ended(answer["prompt_id"], timeout=SECONDS)["status"]
    errors = [data for event, data in status["messages"] if event == "execution_error"]
    for error in errors:
        said = f"{error['node_type']}: {error['exception_type']}: {error['exception_message']}"
        assert error["exception_type"] == "ValueError", said
        assert error["node_type"].startswith("SemanticGuidance") or error["exception_message"].startswith(NAMES), said
    return "failed" if errors else "done"


def run_cases(comfy, name, strategy) -> Counter:
    """How the cases ended, by count."""
    info = comfy.object_info(f"SemanticGuidance{name}")[f"SemanticGuidance{name}"]["input"]
    inputs = {key: [*spec, {}][:2] for key, spec in {**info["required"], **info.get("optional", {})}.items()}
    outcomes: Counter = Counter()

    @settings(
        max_examples=CASES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    @given(strategy(name, inputs))
    def case(graph):
        outcomes[outcome(comfy, graph)] += 1

    case()
    return outcomes


@pytest.mark.parametrize("name", GRAPHS)
def test_every_allowed_setting_is_taken(comfy, name, fuzz_report):
    fuzz_report[f"{name}, allowed"] = outcomes = run_cases(comfy, name, allowed_graphs)
    assert not outcomes["refused"] and outcomes["done"]


@pytest.mark.parametrize("name", GRAPHS)
def test_no_input_does_harm(comfy, name, fuzz_report):
    fuzz_report[f"{name}, anything"] = outcomes = run_cases(comfy, name, any_graphs)
    assert outcomes["refused"] and outcomes["failed"]
