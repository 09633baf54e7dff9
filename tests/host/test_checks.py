"""What nodes refuse although the host passes it on."""

from __future__ import annotations

import pytest
import torch
from host.scfg_runs import DEFAULTS

from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.nodes.region_preview import SemanticGuidanceRegionPreview
from semantic_guidance.nodes.scfg import SemanticGuidanceSCFG
from semantic_guidance.nodes.sega import SemanticGuidanceConcept

TEXT = [[torch.zeros((1, 77, 8)), {}]]
CONCEPT = dict(
    direction="add", edit_guidance_scale=5.0, threshold=0.9, warmup=20.0, cooldown=0.0, counted_in="percent",
    weight=1.0, confine_to="",
)  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 2.1, "1", None])
def test_a_number_outside_of_its_range_is_named(sd15, value):
    with pytest.raises(ValueError, match=r"S-CFG .*strength is .*, not a number from 0.0 to 2.0"):
        SemanticGuidanceSCFG.execute(sd15, **{**DEFAULTS, "strength": value})


def test_a_choice_that_is_none_is_named_with_those_there_are(sd15):
    with pytest.raises(ValueError, match=r"S-CFG .*map_scale is '1/3', not one of auto, 1/2, 1/4, 1/8"):
        SemanticGuidanceSCFG.execute(sd15, **{**DEFAULTS, "map_scale": "1/3"})


@pytest.mark.parametrize("model", [1, "model", None])
def test_a_constant_in_the_place_of_a_link_is_named(model):
    with pytest.raises(ValueError, match=r"S-CFG .*model is a \w+, not a model"):
        SemanticGuidanceSCFG.execute(model, **DEFAULTS)
    with pytest.raises(ValueError, match="Region Preview: regions is a int, not what S-CFG or Regional"):
        SemanticGuidanceRegionPreview.execute(1, {"samples": torch.zeros((1, 4, 8, 8))})


@pytest.mark.parametrize("conditioning", [[1], [[None]], [["text", {}]], {}])
def test_a_list_that_is_no_conditioning_is_refused(conditioning):
    with pytest.raises(ValueError, match="SEGA Concept: conditioning is a"):
        SemanticGuidanceConcept.execute(conditioning, **CONCEPT)


def test_what_is_optional_may_be_none():
    (chain,) = SemanticGuidanceConcept.execute(TEXT, **CONCEPT, mask=None, previous=None).result
    assert len(chain) == 1


def test_half_a_character_is_no_text():
    with pytest.raises(ValueError, match="Prompt with Words: text holds half a character"):
        SemanticGuidancePrompt.execute(None, "a cat \ud800")


def test_a_second_execute_builds_no_schema(sd15, monkeypatch):
    """As the host runs a node: on a locked clone of its class."""
    SemanticGuidanceSCFG.GET_SCHEMA()  # as at the host's start
    monkeypatch.setattr(SemanticGuidanceSCFG, "define_schema", lambda: pytest.fail("the schema was built again"))
    for _ in range(2):
        clone = SemanticGuidanceSCFG.PREPARE_CLASS_CLONE(None)
        assert clone.EXECUTE_NORMALIZED(sd15, **DEFAULTS).result
