"""SEGA beside stand-ins for nodes of other packs (company.py), and what it says where they leave it out."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_advanced_samplers
from host import company, tiny
from host.company import sampled
from host.scfg_runs import relative
from host.sega_runs import concept, concepts, run, with_sega
from host.test_company import NEIGHBOURS, with_easycache

NEGATIVE = 1  # the prompt that edits are measured against, see scfg_runs.run
ONE_STEP = {"steps": 10, "last_step": 1}


@pytest.fixture(scope="module")
def model():
    return tiny.sd15()


def coupled(model):
    return company.AttentionCouple().patch(model, tiny.prompt(5))


def adapted(model):
    return company.ImageAdapter().patch(model)


def mixed(model):
    return company.MixedPrompts().patch(model)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("other", [coupled, adapted, mixed])
def test_nodes_that_know_two_prompts_see_a_concept_as_the_negative_one(model, other, order):
    """So an edit towards the negative prompt is none, and the prompts get what they get without SEGA."""
    def both(chain):
        return with_sega(other(model), chain) if order == "before" else other(with_sega(model, chain))

    plain = run(other(model), **ONE_STEP)
    assert relative(plain, run(model, **ONE_STEP)) > 1e-2
    nothing = concept(NEGATIVE, edit_guidance_scale=20.0)
    assert relative(run(both(nothing), **ONE_STEP), plain) < 1e-4
    edit = run(both(concept()), **ONE_STEP) - plain
    alone = run(with_sega(model, concept()), **ONE_STEP) - run(model, **ONE_STEP)
    if other is not adapted:  # the others leave the negative prompt as it is where it is alone
        assert relative(edit, alone) < 1e-3
    assert edit.abs().max() > 1e-2


def test_a_node_with_which_concepts_cannot_be_evaluated_is_named(model):
    patched = company.ReferenceOnly().patch(model)
    run(patched, **ONE_STEP)
    with pytest.raises(ValueError, match=r"SEGA: the model cannot evaluate a concept \(index 1 .*\(ReferenceOnly\)"):
        run(with_sega(patched), **ONE_STEP)


def test_a_model_that_takes_two_prompts_at_most_gets_the_concepts_one_by_one(model, monkeypatch, caplog):
    expected = run(with_sega(model, concepts({}, {})), **ONE_STEP)
    monkeypatch.setattr(model.model, "apply_model", company.counting_two_prompts(model))
    result = run(with_sega(model, concepts({}, {})), steps=10, last_step=2)
    assert result.isfinite().all() and caplog.text.count("cannot evaluate the concepts together") == 1
    assert relative(run(with_sega(model, concepts({}, {})), **ONE_STEP), expected) < 1e-4


def test_a_concept_of_another_models_clip_is_told(model):
    strange = [[torch.randn(1, 77, 32), {"pooled_output": torch.randn(1, 1280)}]]
    with pytest.raises(ValueError, match="SEGA: the model cannot evaluate a concept .*this model's own CLIP"):
        run(with_sega(model, concept(strange)), **ONE_STEP)


@pytest.mark.parametrize("guider", [
    comfy.samplers.CFGGuider, company.LimitedGuider, company.CentredGuider, company.MorePromptsGuider,
])
def test_guiders_keep_the_edit(model, guider):
    """CentredGuider changes predictions in place, of which the edit must not hear."""
    edit = sampled(guider, with_sega(model), steps=1) - sampled(guider, model, steps=1)
    expected = sampled(comfy.samplers.CFGGuider, with_sega(model), steps=1) - sampled(comfy.samplers.CFGGuider, model,
                                                                                      steps=1)
    assert relative(edit, expected) < 1e-4


@pytest.mark.parametrize("other", [*NEIGHBOURS, with_easycache])
def test_nodes_of_the_host_that_change_the_model_in_either_order(model, other):
    """SAG keeps the attention of the negative prompt that it saw last."""
    def seeded(model):
        torch.manual_seed(0)  # ToMe and HyperTile draw from the global generator
        return run(model, steps=5 if other is with_easycache else 2, size=(16, 24))

    chain = concepts({}, {"direction": "remove"})
    before, after = seeded(with_sega(other(model), chain)), seeded(other(with_sega(model, chain)))
    assert before.isfinite().all()
    assert relative(after, before) < 1e-4
    assert relative(before, seeded(other(model))) > 1e-3
    assert relative(before, seeded(with_sega(model, chain))) > 1e-3


def test_a_sampler_that_enlarges_the_latent(model):
    (sampler,) = nodes_advanced_samplers.SamplerLCMUpscale.execute(2.0, 2, "bilinear").result
    patched = with_sega(model, concept(mask=torch.ones(1, 8, 8)))
    edited, plain = (sampled(comfy.samplers.CFGGuider, m, steps=4, sampler=sampler) for m in (patched, model))
    assert edited.shape[-2:] == (16, 32) and edited.isfinite().all()
    assert relative(edited, plain) > 1e-3


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("SEGA")]


class TestWhatIsSaid:
    """At the end of a run, and nothing where all is well."""

    @pytest.mark.parametrize("other", [None, company.Rescaled, company.Limited])
    @pytest.mark.parametrize("chain", [concept(), concept(warmup=1), ()])
    def test_nothing(self, model, caplog, other, chain):
        guided = with_sega(model, chain)
        run(guided if other is None else other().patch(guided))
        assert not messages(caplog)

    @pytest.mark.parametrize(("other", "told"), [
        (company.OwnGuidance, "no effect. OwnGuidance puts a result of its own in the place of this node's"),
        (company.OnlyOwnGuidance, "no effect. The guider (CFGGuider), or a node connected after this one"),
    ])
    def test_a_node_after_it_that_leaves_it_out(self, model, caplog, other, told):
        assert relative(run(other().patch(with_sega(model))), run(other().patch(model))) < 1e-4
        (message,) = messages(caplog)
        assert told in message
        caplog.clear()
        run(with_sega(company.OwnGuidance().patch(model)))
        assert not messages(caplog)

    def test_a_guider_that_leaves_it_out(self, model, caplog):
        guided, plain = (sampled(company.UnheardGuider, patched) for patched in (with_sega(model), model))
        assert relative(guided, plain) < 1e-4
        (message,) = messages(caplog)
        assert "no effect. The guider (UnheardGuider)" in message

    def test_a_guider_that_divides_by_zero(self, model, caplog):
        assert sampled(company.ImageAssistedGuider, with_sega(model)).isnan().all()
        (message,) = messages(caplog)
        assert "not numbers (NaN). The first came from the guider (ImageAssistedGuider)" in message

    def test_a_prompt_that_is_not_made_of_numbers(self, model, caplog):
        broken = tiny.prompt(0)
        broken[0][0][:, 3] = torch.nan
        assert run(with_sega(model), broken).isnan().all()
        (message,) = messages(caplog)
        assert "not numbers (NaN). The first came from the model" in message

    def test_a_concept_that_is_not_made_of_numbers_never_reaches_the_latent(self, model, caplog):
        broken = tiny.prompt(2)
        broken[0][0][:, 3] = torch.inf
        assert relative(run(with_sega(model, concept(broken))), run(model)) < 1e-4
        (message,) = messages(caplog)
        assert "2 of 2 predictions for concepts had values that are not numbers (NaN)" in message

    def test_cfg_1_once(self, model, caplog):
        run(with_sega(model), cfg=1.0, steps=3)
        (message,) = messages(caplog)
        assert "at cfg 1 the edits act" in message
