"""How often an evaluation makes a GPU wait for Python. Counted on the CPU, by the calls that would (see waits.py)."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from host import attend_excite_runs, scfg_runs, sega_runs, tiny
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_attend_excite_waits_three_times_at_a_step_that_moves_and_once_for_each_refinement(dtype):
    model = tiny.sd15(dtype=dtype)
    model.model.manual_cast_dtype = None
    model, record = attend_excite_runs.with_trace(model, max_refinements=2)
    prompt = tiny.prompt(0, start_percent=0.0, end_percent=0.9, mask=torch.ones(1, 16, 24))
    reached: list[int] = []
    with counted() as waits:
        samples = attend_excite_runs.run(
            model, prompt, steps=6, callback=lambda *args: reached.append(sum(waits.values()))
        )
    refinements = [int(step.refinements) for step in record.of(samples).steps]
    assert len(refinements) == 3 and max(refinements) == 2
    steps = [after - before for before, after in pairwise(reached)]  # from the second on: the first follows the setup
    assert all(0 < steps[i - 1] <= 3 + refinements[i] for i in (1, 2)), waits
    assert steps[2:] == [0, 0, 0], waits
