from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semantic_guidance.guidance import sega
from semantic_guidance.guidance.sega import Edit, Momentum, channel_quantile, edit_term, needed, sega_step

GOLDEN = Path(__file__).parents[1] / "golden"
NO_MOMENTUM = Momentum(scale=0)


def golden_case(name: str):
    case = json.loads((GOLDEN / f"sega_{name}.json").read_text())
    arrays = np.load(GOLDEN / f"sega_{name}.npz")
    columns = []
    for key, default in {"scale": 5, "thr": 0.9, "warm": 10, "cool": None, "rev": False, "wt": 1.0}.items():
        value = default if case[key] is None else case[key]
        columns.append(value if isinstance(value, list) else [value] * case["K"])
    edits = [
        Edit(edit_scale=s, threshold=t, warmup=w, cooldown=c, remove=r, weight=g)
        for s, t, w, c, r, g in zip(*columns, strict=True)
    ]
    momentum = Momentum(scale=case["sm"], beta=case["beta"])
    return case, edits, momentum, torch.from_numpy(arrays["preds"]).double(), torch.from_numpy(arrays["out"])


def predictions(count: int, shape=(2, 4, 6, 5), seed=0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def run(edits, momentum, steps, *, shape=(2, 4, 6, 5), skip=False, masks=None, seed=0):
    """The edits of all steps, with other predictions at each one."""
    nu, results = None, []
    for step in range(steps):
        uncond, *concepts = predictions(1 + len(edits), shape, seed + step)
        if skip:
            pairs = zip(concepts, edits, strict=True)
            concepts = [concept if needed(edit, step, momentum) else None for concept, edit in pairs]
        edit, nu = sega_step(uncond, concepts, edits, nu, step, momentum, masks)
        results.append(edit)
    return torch.stack(results)


@pytest.mark.parametrize("name", ["single", "multi_partial_warmup"])
def test_every_step_equals_the_reference(name):
    case, edits, momentum, preds, out = golden_case(name)
    nu = None
    for step in range(case["steps"]):
        uncond, cond, *concepts = preds[step].split(case["B"])
        edit, nu = sega_step(uncond, concepts, edits, nu, step, momentum)
        guided = uncond + (case["w"] * (cond - uncond) + edit)
        torch.testing.assert_close(guided.float(), out[step], atol=1e-5, rtol=0)  # it is float32, and reaches 50


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (1, 3, 5, 7), (2, 4, 3, 6, 5)])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
def test_the_threshold_keeps_the_strongest_positions_of_each_channel(shape, threshold):
    uncond, concept = predictions(2, shape)
    term = edit_term(uncond, concept, Edit(threshold=threshold)).flatten(2)
    psi = 5 * (concept - uncond).flatten(2)
    positions = psi.shape[2]
    kept = positions - int(np.ceil(threshold * (positions - 1)))
    for sample in range(shape[0]):
        for channel in range(shape[1]):
            strongest = psi[sample, channel].abs().topk(kept).indices
            expected = torch.zeros(positions)
            expected[strongest] = psi[sample, channel, strongest]
            torch.testing.assert_close(term[sample, channel], expected)


def test_a_latent_of_more_values_than_torch_quantile_takes_positions():
    magnitude = torch.linspace(0, 1, 17).reshape(1, 1, 1, -1).expand(1, 2**20, 1, -1)
    assert magnitude.numel() > 2**24
    assert (channel_quantile(magnitude, 0.75) == 0.75).all()


def test_no_concepts_give_no_edit():
    assert run([], Momentum(), 3).abs().max() == 0


@pytest.mark.parametrize("nothing", [{"edit_scale": 0.0}, {"weight": 0.0}, {"weight": -1.0}, {"cooldown": 0}])
def test_a_concept_that_cannot_matter_is_not_needed_and_changes_nothing(nothing):
    edit = replace(Edit(warmup=0), **nothing)
    assert not any(needed(edit, step, Momentum()) for step in range(4))
    assert run([edit], Momentum(), 4).abs().max() == 0


@pytest.mark.parametrize("momentum", [NO_MOMENTUM, Momentum(), Momentum(beta=1.0), Momentum(0.5, 0.6, True)])
def test_skipping_what_is_not_needed_changes_nothing(momentum, monkeypatch):
    edits = [Edit(warmup=2, cooldown=5), Edit(warmup=4, remove=True), Edit(warmup=1, weight=0.0)]
    skipped = run(edits, momentum, 8, skip=True)
    monkeypatch.setattr(sega, "needed", lambda *_: True)
    assert torch.equal(skipped, run(edits, momentum, 8))


def test_during_warmup_a_concept_is_needed_only_for_the_momentum():
    edit = Edit(warmup=3, cooldown=5)
    for inert in (NO_MOMENTUM, Momentum(beta=1.0)):
        assert [needed(edit, i, inert) for i in range(6)] == [False, False, False, True, True, False]
    assert [needed(edit, i, Momentum()) for i in range(6)] == [True, True, True, True, True, False]


def test_warmup_builds_the_momentum():
    plain = run([Edit(warmup=3)], NO_MOMENTUM, 5)
    built = run([Edit(warmup=3)], Momentum(0.5, 0.6), 5)
    assert built[:3].abs().max() == 0
    uncond, concept = predictions(2)
    cold, _ = sega_step(uncond, [concept], [Edit(warmup=0)], None, 0, Momentum(0.5, 0.6))
    torch.testing.assert_close(cold, edit_term(uncond, concept, Edit()))
    assert (built[3] - plain[3]).abs().max() > 0.1


@pytest.mark.parametrize("scale", [0.0, 0.1, 0.5])
def test_a_constant_edit_settles_at_the_fixed_point_of_the_momentum(scale):
    uncond, concept = predictions(2)
    nu = None
    for step in range(200):
        edit, nu = sega_step(uncond, [concept], [Edit(warmup=0)], nu, step, Momentum(scale, 0.6))
    torch.testing.assert_close(edit, edit_term(uncond, concept, Edit()) / (1 - scale))


def test_the_partial_phase_normalises_weights_and_ignores_the_momentum():
    edits = [Edit(warmup=0, weight=1.0), Edit(warmup=0, weight=3.0), Edit(warmup=2)]
    uncond, *concepts = predictions(3 + 1)
    first, second, third = (edit_term(uncond, c, e) for c, e in zip(concepts, edits, strict=True))
    nu = torch.randn_like(uncond)
    partial, _ = sega_step(uncond, concepts, edits, nu, 1, Momentum(0.5, 0.6))
    torch.testing.assert_close(partial, (first + 3 * second) / 4)
    full, _ = sega_step(uncond, concepts, edits, nu, 2, Momentum(0.5, 0.6))
    torch.testing.assert_close(full, first + 3 * second + third + 0.5 * nu)


def test_all_active_concepts_cooled_down_while_another_warms_up_is_zero_not_nan():
    edits = [Edit(warmup=0, cooldown=2), Edit(warmup=5)]
    result = run(edits, Momentum(0.5, 0.6), 7)
    assert result.isfinite().all()
    assert result[2:5].abs().max() == 0
    assert (result[[0, 1, 5, 6]].flatten(1).abs().amax(1) > 0).all()


def test_momentum_outlives_cooldown_as_in_the_reference_unless_told_otherwise():
    edits = [Edit(warmup=0, cooldown=3), Edit(warmup=1, cooldown=4)]
    persists = run(edits, Momentum(0.5, 0.6), 8)
    ends = run(edits, Momentum(0.5, 0.6, ends_with_cooldown=True), 8)
    assert torch.equal(persists[:4], ends[:4])
    torch.testing.assert_close(persists[5:], persists[4:7] * (0.6 + 0.4 * 0.5))  # decay of one step
    assert persists[4].abs().max() > 0.1
    assert ends[4:].abs().max() == 0


def test_removing_is_adding_with_the_sign_turned():
    added = run([Edit(warmup=0)], Momentum(), 4)
    assert torch.equal(run([Edit(warmup=0, remove=True)], Momentum(), 4), -added)


@pytest.mark.parametrize("shape", [(3, 4, 6, 5), (3, 4, 2, 6, 5)])
def test_a_batch_equals_its_images_one_by_one(shape):
    edits = [Edit(warmup=0, cooldown=4), Edit(warmup=2, remove=True)]
    batch = run(edits, Momentum(0.5, 0.6), 6, shape=shape)
    for image in range(3):
        nu = None
        for step in range(6):
            uncond, *concepts = (p[image : image + 1] for p in predictions(3, shape, step))
            edit, nu = sega_step(uncond, concepts, edits, nu, step, Momentum(0.5, 0.6))
            torch.testing.assert_close(edit, batch[step, image : image + 1])


def test_a_mask_confines_its_own_concept_and_the_momentum_it_leaves():
    left = torch.zeros(1, 1, 6, 5)
    left[..., :2] = 1
    edits = [Edit(warmup=0, threshold=0.5), Edit(warmup=2, threshold=0.5)]
    free = run(edits, Momentum(), 5)
    assert torch.equal(run(edits, Momentum(), 5, masks=[torch.ones(1, 1, 1, 1), None]), free)
    both = run(edits, Momentum(), 5, masks=[left, left])
    assert both[..., 2:].abs().max() == 0
    torch.testing.assert_close(both, free * left)
    one = run(edits, Momentum(), 5, masks=[left, None])
    assert one[:2, ..., 2:].abs().max() == 0
    assert one[2:, ..., 2:].abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_edited_in_float32(dtype):
    uncond, concept = (p.to(dtype) for p in predictions(2))
    edit, nu = sega_step(uncond, [concept], [Edit(warmup=0)], None, 0, Momentum())
    assert edit.dtype == nu.dtype == torch.float32
    torch.testing.assert_close(edit, edit_term(uncond.float(), concept.float(), Edit()))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_the_attention_mask_keeps_the_strongest_positions_of_each_image(threshold):
    attention = torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(1)).half()
    mask = sega.strongest(attention, threshold)
    for image, kept in zip(attention.flatten(1).float(), mask.flatten(1), strict=True):
        level = np.quantile(image.numpy(), threshold)
        np.testing.assert_array_equal(kept, image.numpy() >= level)
