"""Attend-and-Excite in fp16 and bf16, with weights that are cast, and where numbers are not finite."""

from __future__ import annotations

import pytest
import torch
from host import tiny
from host.attend_excite_runs import excited, run, traced

from semantic_guidance.sampling.attend_excite import gradient as attention_gradient


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_moves_the_latent_alike(dtype):
    """As far as bf16 goes: it has 8 bits, and scores exponentiate a hundredfold. A loss scale left in would be 4096."""
    settings = dict(max_refinements=0, active_share=0.25)
    exact, low = tiny.sd15(), tiny.sd15(dtype=dtype)
    low.model.manual_cast_dtype = None
    _, expected = traced(exact, settings, steps=2)
    _, trace = traced(low, settings, steps=2)
    torch.testing.assert_close(trace.steps[0].before, expected.steps[0].before.float(), atol=0.05, rtol=0)
    assert 0.5 < float(trace.steps[0].size / expected.steps[0].size) < 2


@pytest.fixture
def overflowing(monkeypatch):
    """Gradients that are infinite from some scale of the loss on, as fp16's are."""
    def limit(largest: float) -> list:
        evaluate, scales = attention_gradient.AttentionGradient._evaluate, []

        def limited(self, *args):
            scales.append(self._loss_scale)
            return evaluate(self, *args) * (1 if self._loss_scale <= largest else torch.inf)

        monkeypatch.setattr(attention_gradient.AttentionGradient, "_evaluate", limited)
        return scales

    return limit


def in_fp16():
    model = tiny.sd15(dtype=torch.float16)
    model.model.manual_cast_dtype = None
    return model


def test_the_loss_of_fp16_is_scaled_down_until_its_gradients_are_finite(overflowing):
    settings = dict(max_refinements=0)
    _, expected = traced(in_fp16(), settings)
    scales = overflowing(300.0)
    _, trace = traced(in_fp16(), settings)
    assert scales == [4096, 256, 256]  # the first step is repeated, the second begins with what was found
    torch.testing.assert_close(trace.steps[0].size, expected.steps[0].size, rtol=0.05, atol=0)


@pytest.mark.parametrize(("make", "tried"), [(tiny.sd15, 1), (in_fp16, 4)])
def test_a_gradient_that_is_never_finite_is_an_error(overflowing, make, tried):
    scales = overflowing(0.0)
    with pytest.raises(ValueError, match=r"Attend-and-Excite: at step 1 of 4 \(sigma 14\.6.*not finite.*bf16 or fp32"):
        run(excited(make(), max_refinements=0))
    assert len(scales) == tried


def test_a_latent_that_was_not_finite_before_is_not_laid_at_our_door(sd15):
    noise = torch.full((1, 4, 16, 24), torch.nan)
    with pytest.raises(ValueError, match=r"Attend-and-Excite: at step 1 of 4 .*before this node.*CFGGuider"):
        run(excited(sd15), noise=noise)


def test_weights_that_are_cast_at_each_call():
    cast, exact = tiny.sd15(dtype=torch.float16), tiny.sd15(dtype=torch.float32)
    for weight in exact.model.diffusion_model.parameters():
        weight.data = weight.data.half().float()
    assert cast.model.manual_cast_dtype == torch.float32
    assert torch.equal(run(excited(cast), steps=2), run(excited(exact), steps=2))
