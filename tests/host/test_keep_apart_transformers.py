"""Keep Apart on transformers: every family is acted on, with hard borders where text and picture attend jointly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from host import tiny_dit
from host.edits import biased
from host.keep_apart_runs import traced, with_apart
from host.scfg_runs import relative
from host.test_weigh import image_rows

from semantic_guidance.sampling.keep_apart import run as apart_run

SETTINGS = dict(words="#3, #5", threshold=0.3, emphasis=2.0)
COLUMNS = ((3,), (5,))


def sample(model, name, steps=1, batch=1, **kwargs):
    noise = torch.randn(tiny_dit.latent(name, batch).shape, generator=torch.Generator().manual_seed(5))
    return tiny_dit.sample(
        model, tiny_dit.prompt(name), tiny_dit.prompt(name, 1), tiny_dit.latent(name, batch), steps=steps,
        **{"cfg": 1.0, "noise": noise, **kwargs},
    )


@pytest.mark.parametrize("name", tiny_dit.MODELS)
def test_every_family_is_acted_on_within_its_first_step(name):
    samples, trace = traced(tiny_dit.model(name), SETTINGS, sample, name=name)
    assert samples.isfinite().all()
    assert trace.acted == trace.layers and trace.steps[0].acted
    assert trace.steps[0].owner.shape[1:] == tiny_dit.latent(name).shape[2:]
    emphasis_alone = sample(with_apart(tiny_dit.model(name), **{**SETTINGS, "strength": 0.0}), name)
    assert relative(samples, emphasis_alone) > 1e-8
    assert relative(emphasis_alone, sample(tiny_dit.model(name), name)) > 1e-8


@pytest.mark.identity
@pytest.mark.parametrize("name", ["flux", "sd3", "wan", "anima"])
def test_the_host_alone_at_strength_0_and_outside_of_its_range_and_twice_alike(name):
    model = tiny_dit.model(name)
    plain = sample(model, name, cfg=4.0)
    for settings in ({"strength": 0.0, "emphasis": 1.0}, {"start_percent": 0.6, "end_percent": 0.5}):
        assert torch.equal(sample(with_apart(model, **{**SETTINGS, **settings}), name, cfg=4.0), plain)
    apart = with_apart(model, **SETTINGS)
    assert torch.equal(sample(apart, name, steps=2), sample(apart, name, steps=2))


@pytest.mark.parametrize("name", ["flux", "qwen", "lens"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_in_joint_attention_it_is_a_mask_for_the_pictures_queries(monkeypatch, name, strength):
    """Two steps at cfg 1 for two images: owners of the first have a say in the second."""
    monkeypatch.setattr(apart_run, "FEW", 0)
    settings = {**SETTINGS, "strength": strength}
    samples, trace = traced(tiny_dit.model(name), settings, sample, name=name, steps=2, batch=2)
    owner, calls = trace.steps[0].owner.float().reshape(2, 1, *trace.steps[0].owner.shape[-2:]), []
    size = [-(-length // (2 if owner.shape[-1] == 6 else 1)) for length in owner.shape[-2:]]
    owner = F.interpolate(owner, size=size, mode="nearest-exact").flatten(1)
    assert len(owner.unique()) == 3 and not torch.equal(owner[0], owner[1])

    def bias(queries, keys):
        placed = image_rows(name, queries, keys)
        if placed is None:
            return None
        added = torch.zeros(2, queries, keys)
        for subject, columns in enumerate(COLUMNS):
            weights = torch.full_like(owner, 2.0)
            if len(calls) > 1:
                weights *= torch.where((owner > 0) & (owner != subject + 1), 1 - strength, 1.0)
            for column in columns:
                added[:, placed[1], placed[0].start + column] = weights.log()
        return added

    model = biased(tiny_dit.model(name), bias)
    model.add_wrapper_with_key("predict_noise", "test", lambda executor, *args, **kwargs: (
        calls.append(1), executor(*args, **kwargs))[1])
    assert relative(samples, sample(model, name, steps=2, batch=2)) < 1e-5


def test_a_batch_is_its_singles_and_split_calls_are_joint_ones(monkeypatch):
    model = with_apart(tiny_dit.model("flux"), **SETTINGS)
    noise = torch.randn(tiny_dit.latent("flux", 2).shape, generator=torch.Generator().manual_seed(3))
    both = sample(model, "flux", batch=2, noise=noise, cfg=4.0)
    for image in range(2):
        assert relative(both[image : image + 1], sample(model, "flux", noise=noise[image : image + 1], cfg=4.0)) < 1e-5
    monkeypatch.setattr(model, "get_free_memory", lambda device: 0)
    assert relative(sample(model, "flux", batch=2, noise=noise, cfg=4.0), both) < 1e-5
