"""How often an evaluation makes a GPU wait for Python. Counted on the CPU, by the calls that would (see waits.py)."""

from __future__ import annotations

import pytest
import torch
from host import scfg_runs, sega_runs, tiny
from host.test_conds import LEFT, RIGHT, in_area, masked, within
from host.waits import counted, per_evaluation

from semantic_guidance.sampling import run as runs


def several_prompts() -> list:
    return [*masked(within(tiny.prompt(0), 0.0, 0.9), LEFT), *masked(tiny.prompt(2), RIGHT),
            *in_area(tiny.prompt(3), 8, 8, 4, 4)]


@pytest.mark.parametrize("positive", [lambda: tiny.prompt(0), several_prompts])
def test_scfg_waits_once_a_step(sd15, positive):
    model, found = per_evaluation(scfg_runs.with_scfg(sd15))
    scfg_runs.run(model, positive(), batch=2, steps=3)
    assert [sum(waits.values()) for waits in found] == [1, 1, 1], found


@pytest.mark.parametrize("positive", [lambda: tiny.prompt(0), several_prompts])
def test_sega_waits_once_a_step(sd15, positive):
    chain = sega_runs.concept(within(tiny.prompt(2), 0.0, 0.9), mask=LEFT, threshold=0.5)
    chain = sega_runs.concept(3, chain, warmup=1, confine_to="#4")
    model, found = per_evaluation(sega_runs.with_sega(sd15, chain))
    scfg_runs.run(model, positive(), batch=2, steps=3)
    assert [sum(waits.values()) for waits in found] == [1, 1, 1], found


def test_what_waits_is_counted_by_the_packs_own_lines():
    sigma = torch.tensor([2.0])
    with counted() as waits:
        value = runs.Evaluation(sigma, sigma, [2.0]).sigma_value
        assert value == sigma.item()  # the test's own
        torch.ones(3)[torch.tensor([True, False, True])].tolist()
    (place,), count = waits, sum(waits.values())
    assert place.startswith("sampling/run.py:") and count == 1
