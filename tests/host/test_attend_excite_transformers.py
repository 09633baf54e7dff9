"""Attend-and-Excite on the transformers whose attention has a gradient; the others are refused with the reason."""

from __future__ import annotations

import comfy.controlnet
import comfy_extras.nodes_sd3 as sd3_nodes
import pytest
import torch
from host import tiny_dit
from host.attend_excite_runs import in_inference_mode, with_trace
from host.scfg_runs import relative
from torch import Tensor

from semantic_guidance.attention_hooks import override
from semantic_guidance.attention_hooks.families import layers_at, model_family
from semantic_guidance.guidance.attend_excite import subject_peaks
from semantic_guidance.sampling.attend_excite import gradient as attention_gradient
from semantic_guidance.sampling.attend_excite.subjects import Subjects
from semantic_guidance.words.prompt import CONDITIONING_KEY, Part, PromptWords, Word

ABLE = ("sd3", "sd35m", "aura", "cogvideo")
# The step of finite differences, and what is asked of them; CogVideoX turns its queries and keys in float32.
PRECISION = {"cogvideo": (0.1, 1e-2)}
FLOAT64 = (1e-5, 1e-4)
SETTINGS = dict(words="#2, #5", scale_factor=0.5, max_refinements=1, map_scale="auto")


def run(name: str, model, steps: int = 2, **kwargs) -> Tensor:
    batch = kwargs.pop("batch", 1)
    return tiny_dit.sample(
        model, tiny_dit.prompt(name, 0, **kwargs.pop("prompt", {})), tiny_dit.prompt(name, 1),
        tiny_dit.latent(name, batch, scale=2), steps=steps, **kwargs,
    )


def traced(name: str, model, settings=None, **kwargs) -> tuple:
    model, record = with_trace(model, **{**SETTINGS, **(settings or {})})
    samples = run(name, model, **kwargs)
    return samples, record.of(samples)


@pytest.mark.parametrize("name", ABLE)
def test_it_moves_the_latent_and_leaves_model_and_host_as_they_were(name):
    model = tiny_dit.build(tiny_dit.MODELS[name].config, tiny_dit.MODELS[name].unet)
    plain = run(name, model)
    samples, trace = traced(name, model)
    assert relative(samples, plain) > 1e-4
    assert len(trace.steps) == 1 and trace.steps[0].size > 0
    assert trace.steps[0].maps.shape[-2:] == (5, 3)  # a latent of 20 x 12, its positions 10 x 6
    assert torch.equal(traced(name, model)[0], samples)
    assert torch.equal(run(name, model), plain)
    off, _ = with_trace(model, **{**SETTINGS, "scale_factor": 0.0})
    assert torch.equal(run(name, off), plain)


@pytest.mark.parametrize("name", ABLE)
def test_weights_stay_bit_for_bit_also_those_of_inference_mode(name):
    model = tiny_dit.build(tiny_dit.MODELS[name].config, tiny_dit.MODELS[name].unet)
    expected, _ = traced(name, model)
    before = {key: weight.clone() for key, weight in model.model.diffusion_model.state_dict().items()}
    assert torch.equal(traced(name, in_inference_mode(model))[0], expected)
    after = model.model.diffusion_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[key]) for key, weight in before.items())
    assert not any("forward" in vars(module) for module in model.model.diffusion_model.modules())


@pytest.mark.parametrize("name", ABLE)
def test_the_gradient_is_the_one_of_finite_differences(name, monkeypatch):
    evaluate, slopes = attention_gradient.AttentionGradient._evaluate, []
    epsilon, rtol = PRECISION.get(name, FLOAT64)

    def compared(self, model, subjects, x, *args):
        x = x.double()
        gradient = evaluate(self, model, subjects, x, *args)
        length = gradient.norm()
        losses = []
        for step in (epsilon, -epsilon):
            evaluate(self, model, subjects, x + step * gradient / length, *args)
            losses.append((1 - subjects.peaks).amax())
        slopes.append(((losses[0] - losses[1]) / (2 * epsilon), length))
        return gradient.float()

    monkeypatch.setattr(attention_gradient.AttentionGradient, "_evaluate", compared)
    traced(name, tiny_dit.build(tiny_dit.MODELS[name].config, tiny_dit.MODELS[name].unet, torch.float64))
    assert len(slopes) == 2
    for slope, length in slopes:
        assert length > 0
        torch.testing.assert_close(slope, length, rtol=rtol, atol=0)


@pytest.mark.parametrize("name", [name for name in tiny_dit.MODELS if name not in ABLE])
def test_families_without_a_gradient_are_refused_with_the_reason(name):
    model = tiny_dit.model(name)
    family = model_family(model, "test")
    with pytest.raises(ValueError) as refused:
        with_trace(model, **SETTINGS)
    message = str(refused.value)
    assert message.startswith(f"Attend-and-Excite: needs gradients, which {family.name} ({type(model.model).__name__})")
    assert family.gradient in message and "Stable Diffusion 3" in message


class Control(comfy.controlnet.ControlBase):
    """Adds to the blocks' values in place, as the host does with what a ControlNet gives."""

    def get_control(self, x, t, cond, batched_number, transformer_options):
        residual = tiny_dit.noise(4, 1, 60, 128)
        return {"output": [residual.repeat(len(x), 1, 1).clone() for _ in range(3)]}


def calling_through(model):
    model = model.clone()
    for block in range(3):
        model.set_model_patch_replace(
            lambda args, extra: extra["original_block"](args), "dit", "double_block", block
        )
    return model


def test_sd3_beside_what_other_nodes_do_to_its_blocks():
    model = in_inference_mode(tiny_dit.build(tiny_dit.MODELS["sd3"].config, tiny_dit.MODELS["sd3"].unet))
    samples, trace = traced("sd3", model)
    through, _ = traced("sd3", calling_through(model))
    assert torch.equal(through, samples)
    skipping = sd3_nodes.SkipLayerGuidanceSD3.execute(model, "1,2", 3.0, 0.0, 1.0).result[0]
    skipped, seen = traced("sd3", skipping)
    assert relative(skipped, samples) > 1e-3
    assert torch.equal(seen.steps[0].before, trace.steps[0].before)  # its own passes are not ours
    _, controlled = traced("sd3", model, prompt={"control": Control()})
    assert controlled.steps[0].size > 0 and not torch.equal(controlled.steps[0].before, trace.steps[0].before)


def test_sd3_in_areas_and_batches():
    model = tiny_dit.model("sd3")
    _, trace = traced("sd3", model, {"max_refinements": 0}, prompt={"area": (10, 6, 0, 0)})
    maps = trace.steps[0].maps[0]  # of a latent of 20 x 12
    assert maps[:, :3, :2].amin() > 0 and maps[:, 3:].amax() == maps[:, :, 2:].amax() == 0
    noise = tiny_dit.noise(5, 2, 16, 20, 12)
    _, together = traced("sd3", model, batch=2, noise=noise)
    for image in range(2):
        _, alone = traced("sd3", model, noise=noise[[image]])
        torch.testing.assert_close(together.steps[0].before[[image]], alone.steps[0].before, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.steps[0].size[[image]], alone.steps[0].size, rtol=1e-3, atol=0)


WIDE = 2056  # of a text in which T5 has features that CLIP leaves zero


@pytest.fixture(scope="module")
def sd3():
    """With a text as wide as tells CLIP's columns from T5's."""
    tiny = tiny_dit.MODELS["sd3"]
    embedder = tiny.unet["context_embedder_config"]
    wide = {**embedder, "params": {**embedder["params"], "in_features": WIDE}}
    return tiny_dit.build(tiny.config, {**tiny.unet, "context_embedder_config": wide})


def sd3_prompt(seed: int) -> list:
    """CLIP's 77 columns and T5's behind them, the words in both."""
    of_clip, of_t5 = (
        tuple(Word(text, (first + column,)) for text, column in (("cat", 2), ("hat", 5))) for first in (0, 77)
    )
    parts = (Part("clip", range(77), of_clip), Part("t5xxl", range(77, 154), of_t5))
    text = tiny_dit.noise(seed, 1, 154, WIDE) / 9
    text[:, :77, 2048:] = 0
    values = {**tiny_dit.MODELS["sd3"].extra(seed), CONDITIONING_KEY: PromptWords(of_clip, 154, parts)}
    return [[text, values]]


def test_of_sd3s_text_clips_tokens_are_compared_as_seen_from_cells_of_2_x_2(sd3, monkeypatch):
    """The same maths once more, in the layers that are read: each cell's mean query, a softmax over 77 keys."""
    attention_of, calls, seen = override.attention_of, [], []

    def recorded(q, k, heads, *args):
        calls.append([t.detach().flatten(2).unflatten(-1, (heads, -1)) for t in (q, k)])
        return attention_of(q, k, heads, *args)

    def loss(self, maps):
        seen.append({uuid: attended.cross.detach() for uuid, attended in maps.items()})
        return of_maps(self, maps)

    of_maps = Subjects.loss
    monkeypatch.setattr(override, "attention_of", recorded)
    monkeypatch.setattr(Subjects, "loss", loss)
    model, record = with_trace(sd3, **{**SETTINGS, "words": "cat, hat", "max_refinements": 0})
    samples = tiny_dit.sample(model, sd3_prompt(0), sd3_prompt(1), tiny_dit.latent("sd3", scale=2), steps=2)
    family, base = model_family(model, "test"), model.model
    read = [layer.block[1] for layer in layers_at(family, family.layers(base.diffusion_model), None, "test")[1]]
    assert len(calls) == max(read) + 1 < len(base.diffusion_model.joint_blocks)  # it ends after the last of them
    expected = torch.zeros(1, 15, 77)
    for block in read:
        q, k = calls[block]
        cells = q[:, 154:].unflatten(1, (5, 2, 3, 2)).mean((2, 4)).flatten(1, 2)
        scores = torch.einsum("bphd,bkhd->bhpk", cells, k[:, :77]) * q.shape[-1] ** -0.5
        expected += scores.softmax(-1).mean(1) / len(read)
    ((found,),) = [list(maps.values()) for maps in seen]
    torch.testing.assert_close(found, expected.unflatten(1, (5, 3)))
    columns = list(range(1, 76))
    torch.testing.assert_close(record.of(samples).steps[0].before, subject_peaks(found, columns, [(2,), (5,)]))


def test_a_token_of_sd3s_t5_is_not_one_that_is_compared(sd3, caplog):
    model, record = with_trace(sd3, **{**SETTINGS, "words": "#80"})
    tiny_dit.sample(model, sd3_prompt(0), sd3_prompt(1), tiny_dit.latent("sd3", scale=2), steps=2)
    assert "moved at 0 of 1 steps" in caplog.text
