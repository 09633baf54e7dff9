"""Word Strength on a tiny model of every transformer family."""

from __future__ import annotations

import pytest
import torch
from host import tiny_dit
from host.scfg_runs import probed, relative
from host.strength_runs import TinyText, strength
from host.test_scfg_families import NAMES, run

from semantic_guidance.attention_hooks import families
from semantic_guidance.attention_hooks.families import model_family

ONE = [[0.0, 1.0], [1.0, 1.0]]
BY_NUMBER = {"anima"}  # makes its text of token numbers, while sampling


def first(model, name: str, conditioning) -> dict:
    seen = []
    run(probed(model, lambda args: seen.append(dict(args))), name, positive=conditioning, steps=1)
    return seen[0]


@pytest.mark.parametrize("name", NAMES)
class TestFamilies:
    def made(self, name: str, value: float, words: str = "cat", **settings) -> tuple:
        text = TinyText(name, tiny_dit.prompt(name))
        prompt = text.encode("a cat and red balloon")
        return strength(tiny_dit.model(name), prompt, words, value, clip=text, **settings)

    def test_more_and_below_0_act_on_the_prompt_alone(self, name):
        model = tiny_dit.model(name)
        plain = first(model, name, TinyText(name, tiny_dit.prompt(name)).encode("a cat and red balloon"))
        found = []
        for value in (2.0, 0.0, -1.0):
            ours, conditioning, record = self.made(name, value)
            seen = first(ours, name, conditioning)
            assert seen["cond_denoised"].isfinite().all()
            assert relative(seen["cond_denoised"], plain["cond_denoised"]) > 1e-6
            assert torch.equal(seen["uncond_denoised"], plain["uncond_denoised"])
            found.append((seen["cond_denoised"], record._runs[-1]))
        (_, more), (zero, text), (below, both) = found
        assert more.acted == both.acted == more.layers > 0 == text.acted
        assert not torch.equal(below, zero)

    def test_in_the_text_or_in_the_run_it_is_the_same(self, name):
        weak, conditioning, _ = self.made(name, 0.5)
        expected = run(weak, name, positive=conditioning)
        if name not in BY_NUMBER:
            assert relative(run(tiny_dit.model(name), name, positive=conditioning), expected) == 0
        ours, whole, _ = self.made(name, 0.5, curve=ONE)
        assert relative(run(ours, name, positive=whole), expected) < 1e-4

    def test_a_mask(self, name):
        size = tiny_dit.latent(name).shape[-2:]
        family = model_family(tiny_dit.model(name), "test")
        if family.kind == "joint" or family.mixes_text:
            with pytest.raises(ValueError, match=f"Word Strength: strength is 0.5, and with a mask {family.name} can"):
                self.made(name, 0.5, mask=torch.ones(1, *size))
        values = (2.0,) if family.kind == "joint" or family.mixes_text else (2.0, 0.5)
        for value in values:
            expected, masked = (
                run(ours, name, positive=conditioning, steps=1)
                for ours, conditioning, _ in (self.made(name, value), self.made(name, value, mask=torch.ones(1, *size)))
            )
            assert relative(masked, expected) < 1e-4


def test_a_model_whose_attention_is_unknown_has_strengths_from_0_to_1(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", ())
    text = TinyText("wan", tiny_dit.prompt("wan"))
    prompt = text.encode("a cat and red balloon")
    for settings in ({}, {"end_percent": 0.5}, {"curve": ONE}):
        model, weak, record = strength(tiny_dit.model("wan"), prompt, "cat", 0.5, clip=text, **settings)
        samples = run(model, "wan", positive=weak)
        assert relative(samples, run(tiny_dit.model("wan"), "wan", positive=prompt)) > 1e-6
        assert record.of(samples).paths == ("text",)
    for value in (2.0, -1.0):
        with pytest.raises(ValueError, match=r"Word Strength: the model is a WAN21 .* A strength from 0 to 1"):
            strength(tiny_dit.model("wan"), prompt, "cat", value, clip=text)
