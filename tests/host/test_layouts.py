"""Every row of the table of families, on tiny models of the host's own classes."""

from __future__ import annotations

import pytest
import torch
from host import tiny_dit


@pytest.mark.parametrize("name", tiny_dit.MODELS)
def test_the_tiny_model_follows_its_prompt(name):
    def run(seed):
        negative = tiny_dit.prompt(name, 5, tokens=7)
        return tiny_dit.sample(tiny_dit.model(name), tiny_dit.prompt(name, seed), negative, tiny_dit.latent(name))

    first = run(0)
    assert first.isfinite().all()
    assert first.shape == tiny_dit.latent(name).shape
    assert (first - run(1)).abs().max() > 1e-3
    assert torch.equal(run(0), first)
