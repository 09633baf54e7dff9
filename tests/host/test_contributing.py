"""The method that CONTRIBUTING.md shows is one."""

from __future__ import annotations

import re

import pytest
import torch
from host.scfg_runs import relative, run
from paths import ROOT

import semantic_guidance.sampling.run  # noqa: F401  the example's parent


@pytest.fixture(scope="module")
def patch_steady():
    (code,) = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    module = {"__package__": "semantic_guidance.sampling.steady", "__name__": "semantic_guidance.sampling.steady.run"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), module)  # noqa: S102
    return module["patch_steady"]


def test_the_example_acts_alike_each_time_and_not_at_strength_0(sd15, patch_steady):
    plain, steady = run(sd15, steps=3), patch_steady(sd15, 1.0)
    samples = run(steady, steps=3)
    assert relative(samples, plain) > 1e-3
    assert torch.equal(run(steady, steps=3), samples)
    assert torch.equal(run(patch_steady(sd15, 0.0), steps=3), plain)
    assert torch.equal(run(steady, steps=3, cfg=1.0), run(sd15, steps=3, cfg=1.0))
