from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semantic_guidance.guidance.attend_excite import (
    Excitation,
    Seen,
    Step,
    excite,
    latent_move,
    losses,
    schedule,
    score_columns,
    subject_peaks,
    subject_score,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "ae_unit.npz"
SD1 = score_columns([76], until_eot=False)
SD2 = score_columns([6], until_eot=True)


def attention_maps(batch=1, height=6, width=5, tokens=77, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(batch, height, width, tokens, generator=generator)).softmax(-1)


@pytest.mark.parametrize(("mode", "columns"), [("sd14", SD1), ("sd21_last6", SD2)])
def test_peaks_and_loss_equal_the_reference(mode, columns):
    golden = np.load(GOLDEN)
    peaks = subject_peaks(torch.from_numpy(golden["attn"]).double()[None], columns, [[s] for s in golden["indices"]])
    np.testing.assert_allclose(peaks[0], golden[f"max_{mode}"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(losses(peaks)[0], golden[f"loss_{mode}"], atol=1e-6, rtol=0)


def test_gradient_equals_the_reference():
    golden = np.load(GOLDEN)
    attention = torch.from_numpy(golden["attn"]).double()[None].requires_grad_()
    peaks = subject_peaks(attention, SD1, [[s] for s in golden["indices"]])
    (gradient,) = torch.autograd.grad(losses(peaks).sum(), attention)
    assert np.abs(golden["grad_sd14"]).max() > 1
    np.testing.assert_allclose(gradient[0], golden["grad_sd14"], atol=2e-6, rtol=0)  # the reference is in float32


def test_columns_of_one_and_of_several_chunks():
    assert SD1 == list(range(1, 76))
    assert SD2 == [1, 2, 3, 4, 5]
    assert score_columns([76, 3], until_eot=False) == [*range(1, 76), *range(78, 153)]
    assert score_columns([4, 3], until_eot=True) == [1, 2, 3, 78, 79]


def test_chunks_compete_with_each_other_but_not_with_start_tokens():
    attention = attention_maps(tokens=154)
    columns = score_columns([5, 4], until_eot=True)
    score = subject_score(attention, columns, [79])
    torch.testing.assert_close(score, (100 * attention[..., columns]).softmax(-1)[..., columns.index(79)])
    attention[..., [0, 77]] = 1.0
    assert torch.equal(subject_score(attention, columns, [79]), score)


def test_a_phrase_is_present_where_both_words_are():
    attention = torch.full((1, 8, 8, 77), 0.01)
    red, balloon = 2, 3
    attention[0, 1, 1, red] = attention[0, 6, 6, balloon] = 0.5
    apart = subject_score(attention, SD1, [red, balloon])
    attention[0, 6, 6, red] = 0.5
    together = subject_score(attention, SD1, [red, balloon])
    torch.testing.assert_close(apart.max(), torch.tensor(0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(together[0, 6, 6], torch.tensor(1.0), atol=0.01, rtol=0)
    torch.testing.assert_close(together, subject_score(attention, SD1, [balloon, red]))


@pytest.mark.parametrize("subject", [[2], [2, 3], [2, 3, 7]])
def test_a_subject_attended_to_alone_has_no_loss(subject):
    attention = torch.zeros(1, 4, 4, 77)
    attention[..., subject] = 1 / len(subject)
    assert losses(subject_peaks(attention, SD1, [subject])).item() < 1e-6


def test_only_the_most_neglected_subject_has_a_gradient():
    attention = attention_maps().requires_grad_()
    peaks = subject_peaks(attention, SD1, [[2], [5], [9]])
    worst = [2, 5, 9][peaks[0].argmin()]
    (gradient,) = torch.autograd.grad(losses(peaks).sum(), attention)
    lowered = gradient.flatten(0, 2).amin(0)  # raising a subject's own attention lowers its loss
    assert [s for s in (2, 5, 9) if lowered[s] < 0] == [worst]


def test_images_of_a_batch_have_independent_losses_and_gradients():
    attention = attention_maps(batch=3).requires_grad_()
    loss = losses(subject_peaks(attention, SD1, [[2], [5, 6]]))
    (gradient,) = torch.autograd.grad(loss.sum(), attention)
    for image in range(3):
        alone = attention[image : image + 1].detach().requires_grad_()
        loss_alone = losses(subject_peaks(alone, SD1, [[2], [5, 6]]))
        (gradient_alone,) = torch.autograd.grad(loss_alone.sum(), alone)
        assert torch.equal(loss_alone[0], loss[image])
        assert torch.equal(gradient_alone[0], gradient[image])


def test_the_schedule_of_the_paper():
    steps = schedule(Excitation(), 50)
    assert len(steps) == 25
    assert {i: step.target for i, step in enumerate(steps) if step.target is not None} == {
        0: pytest.approx(0.95),
        10: pytest.approx(0.5),
        20: pytest.approx(0.2),
    }
    alphas = [20 * (1 - 0.5 * i / 49) ** 0.5 for i in range(25)]
    assert [step.alpha for step in steps] == pytest.approx(alphas)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 51])
def test_any_number_of_steps_has_a_schedule(steps):
    plan = schedule(Excitation(), steps)
    assert len(plan) == (steps + 1) // 2
    assert plan[0].alpha == 20
    assert plan[0].target is not None


def test_thresholds_that_fall_on_one_step_leave_the_strictest():
    settings = Excitation(thresholds=((0.0, 0.05), (0.1, 0.8), (0.2, 0.5)))
    assert schedule(settings, 2)[0].target == pytest.approx(0.2)


@pytest.mark.parametrize("off", [{"scale_factor": 0.0}, {"share": 0.0}])
def test_strength_zero_and_an_empty_range_have_no_steps(off):
    assert schedule(replace(Excitation(), **off), 50) == []


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 16, 5, 8, 3)])
def test_a_move_is_bounded_by_the_norm_of_each_image(shape):
    x, gradient = torch.randn(shape), torch.randn(shape)
    gradient[0] *= 1e-4
    move, size = latent_move(x, gradient, rate=20.0, limit=0.1)
    torch.testing.assert_close(move[0], -20 * gradient[0])
    torch.testing.assert_close(size, move.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1))
    assert size[0] < 0.1
    torch.testing.assert_close(size[1], torch.tensor(0.1))
    cosine = torch.nn.functional.cosine_similarity(move[1].flatten(), -gradient[1].flatten(), dim=0)
    torch.testing.assert_close(cosine, torch.tensor(1.0))


def test_nothing_to_move_gives_zero_even_for_an_empty_latent():
    for x in (torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)):
        move, size = latent_move(x, torch.zeros_like(x), rate=20.0 * 214.2, limit=0.1)
        assert move.abs().max() == size.item() == 0


def seen_with(peaks: torch.Tensor, gradient: torch.Tensor) -> Seen:
    """The paper's loss alone."""
    return Seen(peaks, losses(peaks), losses(peaks)[:, None], gradient)


def quadratic(wanted: torch.Tensor):
    """A stand-in for the model: one subject, whose peak is 1 minus half the squared distance to `wanted`."""
    seen = []

    def evaluate(x):
        seen.append(x)
        distance = x - wanted
        peak = 1 - distance.square().flatten(1).sum(1, keepdim=True) / 2
        return seen_with(peak, torch.where(peak[..., None] < 1, distance, 0))

    return evaluate, seen


FREE = Excitation(limit=torch.inf)


def test_a_step_without_target_moves_once():
    evaluate, seen = quadratic(torch.zeros(1, 1, 4))
    x = torch.full((1, 1, 4), 0.5)
    result = excite(x, 1.0, Step(0.25, None), FREE, evaluate)
    torch.testing.assert_close(result.x, 0.75 * x)
    assert len(seen) == len(result.sizes) == 1
    torch.testing.assert_close(result.sizes, torch.tensor([[0.25]]))
    assert result.refinements.tolist() == [0]


def test_a_loss_of_exactly_zero_moves_nothing():
    x = torch.ones(1, 1, 4)
    result = excite(x, 2.0, Step(1.0, 0.0), FREE, lambda x: seen_with(torch.ones(1, 1), torch.ones_like(x)))
    assert torch.equal(result.x, x)
    assert result.sizes.tolist() == [[0.0]]


def test_refinement_makes_one_move_after_meeting_the_target():
    evaluate, seen = quadratic(torch.zeros(1, 1, 1))
    # losses 0.5, 0.125, 0.03125: the second meets the target, the move after it is still made
    result = excite(torch.ones(1, 1, 1), 1.0, Step(0.5, 0.2), FREE, evaluate)
    assert result.refinements.tolist() == [2]
    torch.testing.assert_close(1 - result.peaks.flatten(), torch.tensor([0.5, 0.125, 0.03125]))
    torch.testing.assert_close(result.x.flatten(), torch.tensor([0.125]))  # three halvings


def test_refinement_gives_up_after_the_most_moves():
    evaluate, seen = quadratic(torch.zeros(1, 1, 1))
    result = excite(torch.ones(1, 1, 1), 1.0, Step(1e-6, 0.2), replace(FREE, max_refinements=7), evaluate)
    assert result.refinements.tolist() == [7]
    assert len(seen) == 8


def test_images_that_need_nothing_keep_their_latent_bit_for_bit():
    wanted = torch.randn(3, 2, 4)
    evaluate, _ = quadratic(wanted)
    x = wanted.clone()
    x[1] += 0.3
    result = excite(x, 2.0, Step(0.2, 0.01), Excitation(), evaluate)
    assert torch.equal(result.x[[0, 2]], x[[0, 2]])
    assert result.refinements[1] > 0 and result.refinements[[0, 2]].tolist() == [0, 0]
    assert result.sizes[:, [0, 2]].abs().max() == 0 < result.sizes[:, 1].max()


def test_a_batch_equals_its_images_one_by_one():
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(4, 2, 3, generator=generator)
    x = wanted + 0.5 * torch.randn(4, 2, 3, generator=generator)
    step = Step(0.1, 0.2)
    batch = excite(x, 1.49, step, Excitation(), quadratic(wanted)[0])
    assert len(set(batch.refinements.tolist())) > 1
    for image in range(4):
        alone = excite(x[[image]], 1.49, step, Excitation(), quadratic(wanted[[image]])[0])
        torch.testing.assert_close(alone.x[0], batch.x[image])
        assert alone.refinements[0] == batch.refinements[image]
