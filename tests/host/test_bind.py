"""Bound phrases of Prompt with Words against explicit attention, and in every company."""

from __future__ import annotations

import gc
import weakref

import comfy.hooks
import comfy.ldm.modules.attention as host_attention
import comfy.model_management
import comfy.samplers
import nodes as host_nodes
import pytest
import torch
from comfy_extras import nodes_hooks
from host import (
    attend_excite_runs,
    company,
    scfg_runs,
    schedule_runs,
    sega_runs,
    test_company,
    test_conds,
    test_runs,
    tiny,
    tiny_clip,
    tiny_dit,
)
from host.scfg_runs import probed, relative
from host.sega_runs import SIZE, run

from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.sampling.bind import HOOK
from semantic_guidance.words.prompt import BOUND_KEY

TEXT = "a red balloon and a (blue:1.3) car"
PHRASES = ("red balloon", "blue car")
NEGATIVE = "a cat, " * 30  # two chunks, to which the host repeats the other prompt


@pytest.fixture(scope="module")
def clips():
    return {family: tiny_clip.clip(family) for family in ("sd1", "sdxl")}


def encode(clip, phrases=PHRASES, text: str = TEXT) -> list:
    with torch.inference_mode():
        conditioning = SemanticGuidancePrompt.execute(clip, text, ", ".join(phrases)).result[0]
    for _, extra in conditioning:
        extra["pooled_output"] = torch.zeros(1, 1280)  # as wide as the tiny SDXL takes it
    return conditioning


def explicit(monkeypatch, model, prompt: list, sequences: list) -> None:
    """Cross-attention by the paper's formula for rows of this prompt: a mean over sequences of values."""
    def attention(module, x, context, values):
        q, k, v = (
            t.unflatten(-1, (module.heads, -1)).transpose(1, 2)
            for t in (module.to_q(x), module.to_k(context), module.to_v(values))
        )
        return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)

    def forward(module, x, context=None, value=None, **kwargs):
        rows = []
        for row, text in zip(x.split(1), context.split(1), strict=True):
            own = torch.equal(text[:, : prompt[0][0].shape[1]], prompt[0][0].to(text))
            repeats = text.shape[1] // prompt[0][0].shape[1]
            laid = [sequence.to(text).repeat(1, repeats, 1) for sequence in sequences] if own else [text]
            rows.append(sum(attention(module, row, text, values) for values in laid) / len(laid))
        return module.to_out(torch.cat(rows))

    for block in model.model.diffusion_model.modules():
        if isinstance(block, host_attention.BasicTransformerBlock):
            monkeypatch.setattr(block.attn2, "forward", forward.__get__(block.attn2))


@pytest.mark.parametrize(("family", "negative"), [("sd1", "a cat"), ("sd1", NEGATIVE), ("sdxl", "a cat")])
def test_is_explicit_attention_over_aligned_sequences(monkeypatch, sd15, sdxl, clips, family, negative):
    model, clip = {"sd1": sd15, "sdxl": sdxl}[family], clips[family]
    options = dict(negative=encode(clip, (), negative), steps=1)
    bound, plain = encode(clip), encode(clip, ())
    ours, alone = (run(model, positive=positive, **options) for positive in (bound, plain))
    sequences = [plain[0][0]]
    for phrase, columns in (("red balloon", (2, 3)), ("(blue:1.3) car", (6, 7))):
        own = encode(clip, (), phrase)[0][0]
        aligned = plain[0][0].clone()
        aligned[:, list(columns)] = own[:, 1:3]
        sequences.append(aligned)
    explicit(monkeypatch, model, plain, sequences)
    assert relative(ours, run(model, positive=plain, **options)) < 10 * tiny.EXACT  # the explicit rounds elsewhere
    assert relative(ours, alone) > 1e-3


@pytest.mark.identity
def test_off_is_clip_text_encode_bit_for_bit(sd15, clips):
    plain, empty = encode(clips["sd1"], ()), encode(clips["sd1"], (" ", ""))
    assert BOUND_KEY not in plain[0][1] and "hooks" not in plain[0][1] and plain[0][1].keys() == empty[0][1].keys()
    (theirs,) = host_nodes.CLIPTextEncode().encode(clips["sd1"], TEXT)
    assert torch.equal(run(sd15, positive=plain), run(sd15, positive=theirs))
    bound = encode(clips["sd1"])
    assert torch.equal(bound[0][0], theirs[0][0])
    samples = run(sd15, positive=bound)
    assert torch.equal(run(sd15, positive=bound), samples)
    assert torch.equal(run(sd15, positive=plain), run(sd15, positive=theirs))  # nothing stays on the model


def test_it_costs_no_call_of_the_model(monkeypatch, sd15, clips):
    calls: list[int] = []
    original = sd15.model.apply_model
    monkeypatch.setattr(sd15.model, "apply_model", lambda x, *args, **kwargs: (
        calls.append(len(x)), original(x, *args, **kwargs))[1])
    run(sd15, positive=encode(clips["sd1"]), steps=2)
    assert calls == [2, 2]


def arranged(clip) -> dict:
    other = tiny.prompt(2)
    left = test_conds.LEFT
    concat = host_nodes.ConditioningConcat().concat(encode(clip), other)[0]
    return {
        "area": [*test_conds.in_area(encode(clip), 8, 8, 4, 4), *other],
        "other area": [*encode(clip), *test_conds.in_area(other, 8, 8, 4, 4)],
        "mask": [*test_conds.masked(encode(clip), left), *other],
        "range": test_conds.within(encode(clip), 0.0, 0.5) + test_conds.within(other, 0.5, 1.0),
        "concat": concat,
    }


@pytest.mark.parametrize("arrangement", ["area", "other area", "mask", "range", "concat"])
def test_conds_in_separate_model_calls_give_the_same_as_joint_ones(monkeypatch, sd15, clips, arrangement):
    options = dict(positive=arranged(clips["sd1"])[arrangement], size=test_conds.SIZE)
    joint = run(sd15, **options)
    assert relative(run(test_conds.separately(monkeypatch, sd15), **options), joint) < 1e-4
    unbound = [[text, {key: value for key, value in extra.items() if key not in (BOUND_KEY, "hooks")}]
               for text, extra in options["positive"]]
    assert relative(run(sd15, **{**options, "positive": unbound}), joint) > 1e-4


def test_a_negative_prompt_in_the_positives_area_is_not_bound_and_may_have_phrases_of_its_own(sd15, clips):
    """The host gives the negative a copy of the positive cond, area and conditioning included."""
    clip = clips["sd1"]
    positive = test_conds.in_area(encode(clip), 8, 8, 4, 4)
    seen: list[dict] = []
    for conditioning in (positive, test_conds.in_area(encode(clip, ()), 8, 8, 4, 4)):
        run(probed(sd15, lambda args: seen.append(args)), positive=conditioning, steps=1, size=test_conds.SIZE)
    bound, plain = seen
    assert torch.equal(bound["uncond_denoised"], plain["uncond_denoised"])
    assert not torch.equal(bound["cond_denoised"], plain["cond_denoised"])
    both = run(sd15, positive=encode(clip, ()), negative=encode(clip, ("yellow dog",), "a yellow dog"))
    assert relative(both, run(sd15, positive=encode(clip, ()), negative=encode(clip, (), "a yellow dog"))) > 1e-3


@pytest.mark.parametrize("sampler", test_conds.SAMPLERS)
def test_samplers(sd15, clips, sampler):
    samples = run(sd15, positive=encode(clips["sd1"]), sampler=sampler)
    assert samples.isfinite().all()
    assert relative(samples, run(sd15, positive=encode(clips["sd1"], ()), sampler=sampler)) > 1e-4


def test_a_batch_is_its_singles_and_bfloat16(sd15, clips):
    positive = encode(clips["sd1"])
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    both = run(sd15, positive=positive, batch=2, noise=noise)
    for image in range(2):
        assert relative(both[image : image + 1], run(sd15, positive=positive, noise=noise[image : image + 1])) < 1e-4
    half = tiny.sd15(dtype=torch.bfloat16)
    samples = run(half, positive=positive)
    assert samples.isfinite().all() and relative(samples, run(half, positive=encode(clips["sd1"], ()))) > 1e-3


OURS = {
    "S-CFG": scfg_runs.with_scfg,
    "SEGA": sega_runs.with_sega,
    "A&E": lambda model: attend_excite_runs.with_trace(model)[0],
    "schedule": lambda model: schedule_runs.scheduled(model, preset="constant", words="red balloon: 2, car: 0.5"),
    "PAG": test_company.with_pag,
    "APG": lambda model: company.Rescaled().patch(model),
    "NAG": test_company.with_nag,
    "HyperTile": test_company.with_hypertile,
}


@pytest.mark.parametrize("other", OURS)
def test_beside_other_nodes_both_act(sd15, clips, other):
    model = OURS[other](sd15)
    bound, plain = encode(clips["sd1"]), encode(clips["sd1"], ())
    options = dict(size=test_company.SIZE)
    samples = run(model, positive=bound, **options)
    assert samples.isfinite().all()
    assert relative(samples, run(model, positive=plain, **options)) > 1e-4
    assert relative(samples, run(sd15, positive=bound, **options)) > 1e-4


def test_values_that_another_node_hands_over_stay(sd15, clips):
    """Its patch comes after ours, and sees the bound values."""
    seen = []

    def double(n, context, value, options):
        seen.append(not torch.equal(context, value))
        return n, context, 2 * value

    model = sd15.clone()
    model.set_model_attn2_patch(double)
    run(model, positive=encode(clips["sd1"]), steps=1)
    assert seen and all(seen)


def test_an_interrupt_leaves_nothing_behind(sd15, clips):
    def interrupt(args):
        raise comfy.model_management.InterruptProcessingException

    positive = encode(clips["sd1"])
    expected = run(sd15, positive=positive)
    before = test_runs.keys_of(sd15.model_options)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(probed(sd15, interrupt), positive=positive)
    assert test_runs.keys_of(sd15.model_options) == before
    assert torch.equal(run(sd15, positive=positive), expected)
    values = weakref.ref(positive[0][1][BOUND_KEY].values)
    del positive
    gc.collect()
    assert values() is None


def test_hooks_of_other_nodes_stay_with_the_prompt(sd15, clips):
    counting = test_company.CountingOverride()
    hooks = comfy.hooks.HookGroup()
    hooks.add(comfy.hooks.TransformerOptionsHook(
        {test_company.OVERRIDE: counting}, comfy.hooks.EnumHookScope.HookedOnly))
    positive = comfy.hooks.set_hooks_for_conditioning(encode(clips["sd1"]), hooks)
    assert HOOK in positive[0][1]["hooks"].hooks
    assert relative(run(sd15, positive=positive), run(sd15, positive=encode(clips["sd1"]))) < tiny.EXACT
    assert counting.calls == 2 * 2 * 16


def test_a_prompt_that_changes_while_sampling_is_bound_in_each_of_its_parts(clips):
    """A LoRA by keyframes on the text encoder makes a conditioning of two entries."""
    weights = dict(clips["sd1"].cond_stage_model.named_parameters())
    name = next(name for name in weights if name.endswith("layers.0.mlp.fc1.weight"))
    hooks = comfy.hooks.create_hook_model_as_lora(None, {name: 2 * weights[name].detach()}, 1.0, 1.0)
    (first,) = nodes_hooks.CreateHookKeyframe().create_hook_keyframe(1.0, 0.0)
    (keyframes,) = nodes_hooks.CreateHookKeyframe().create_hook_keyframe(0.0, 0.5, first)
    (hooks,) = nodes_hooks.SetHookKeyframes().set_hook_keyframes(hooks, keyframes)
    (hooked,) = nodes_hooks.SetClipHooks().apply_hooks(clips["sd1"], True, True, hooks)
    one, two = (extra[BOUND_KEY] for _, extra in encode(hooked))
    differences = [bound.values - bound.text for bound in (one, two)]
    assert all(difference.any() for difference in differences) and relative(*differences) > 1e-3


def test_a_prompt_that_was_changed_is_left_as_it_is_and_told(sd15, clips, caplog):
    (zeroed,) = host_nodes.ConditioningZeroOut().zero_out(encode(clips["sd1"]))
    (plain,) = host_nodes.ConditioningZeroOut().zero_out(encode(clips["sd1"], ()))
    assert torch.equal(run(sd15, positive=zeroed), run(sd15, positive=plain))
    assert "Prompt with Words: another node changed the prompt after its phrases were bound" in caplog.text


def test_what_cannot_be_bound_is_named_with_the_way_out(clips):
    with pytest.raises(ValueError, match=r'Prompt with Words: "green balloon" is not in the prompt. .*Its words are'):
        encode(clips["sd1"], ("green balloon",))
    with pytest.raises(ValueError, match="Prompt with Words: a phrase has 80 tokens, and 75 fit"):
        encode(clips["sd1"], ("cat " * 80,), "cat " * 80)
    with pytest.raises(ValueError, match="Prompt with Words: SD3 does not tell keys from values.*Leave bind_phrases"):
        positive = [[tiny_dit.prompt("sd3", 0)[0][0], encode(clips["sd1"])[0][1]]]
        positive[0][1][BOUND_KEY] = positive[0][1][BOUND_KEY]._replace(text=positive[0][0], values=positive[0][0])
        tiny_dit.sample(tiny_dit.model("sd3"), positive, tiny_dit.prompt("sd3", 1), samples=tiny_dit.latent("sd3"))
