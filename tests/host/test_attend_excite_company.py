"""Attend-and-Excite beside nodes of the host and the tricks of other packs: it works, or says what hinders it."""

from __future__ import annotations

import comfy.ldm.modules.attention as host_attention
import comfy.samplers
import comfy.sd
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_freelunch as freelunch
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from host import company, tiny
from host.attend_excite_runs import excited, in_inference_mode, run, with_trace
from host.scfg_runs import relative
from host.test_company import first, with_hypertile, with_nag, with_pag, with_tome

from semantic_guidance.sampling.run import EXTRA_PASS
from semantic_guidance.words.prompt import CONDITIONING_KEY, PromptWords, Word

GENTLE = dict(max_refinements=0)


@pytest.fixture(scope="module")
def model():
    """Weights as the host's loaders make them."""
    return in_inference_mode(tiny.sd15())


def sampled(model, **kwargs) -> tuple:
    """The samples of a run of two steps, and the steps that its record has."""
    torch.manual_seed(0)
    excited_model, record = with_trace(model, **GENTLE)
    samples = run(excited_model, **{"steps": 2, **kwargs})
    return samples, record.of(samples).steps


def with_freeu(model):
    return first(freelunch.FreeU.execute(model, 1.1, 1.2, 0.9, 0.2))


def with_freeu_v2(model):
    return first(freelunch.FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2))


def with_temperature(model):
    """As nodes do that sharpen attention: by a tensor of their own, in place of the host's function."""
    def sharpened(func, q, k, v, heads, *args, **kwargs):
        return func(q * temperature, k, v, heads, *args, **kwargs)

    with torch.inference_mode():
        temperature = torch.full((1,), 1.2)
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = sharpened
    return model


def with_own_attention(model):
    """As PLADIS and negative cross attention do: their own softmax on some blocks, with tensors made while sampling."""
    def replacement(q, k, v, options):
        with torch.inference_mode():
            scale = torch.ones(1, 1, q.shape[-1])
        return host_attention.attention_basic(q * scale, k, v, options["n_heads"])

    model = model.clone()
    for block in (("input", 1), ("input", 2), ("output", 9)):
        model.set_model_attn2_replace(replacement, *block)
    return model


WORKS = [with_freeu, with_freeu_v2, with_temperature, with_own_attention, with_nag, with_pag, with_tome, with_hypertile]


@pytest.mark.parametrize("other", WORKS)
def test_moves_the_latent_beside_nodes_that_change_the_model_in_either_order(model, other):
    before, steps = sampled(other(model))
    assert len(steps) == 1 and steps[0].size > 0
    torch.manual_seed(0)
    after = run(other(excited(model, **GENTLE)), steps=2)
    assert relative(after, before) < 1e-4


def test_a_patch_that_writes_into_what_autograd_keeps_has_the_gradient_of_one_that_does_not(model):
    def with_patch(patch):
        patched = model.clone()
        patched.set_model_output_block_patch(patch)
        return patched

    def in_place(h, skip, options):
        half = h.shape[1] // 2
        h[:, :half] = h[:, :half] * (1 + 0.1 * h.mean(1, keepdim=True))
        return h, skip

    def anew(h, skip, options):
        half = h.shape[1] // 2
        return torch.cat([h[:, :half] * (1 + 0.1 * h.mean(1, keepdim=True)), h[:, half:]], dim=1), skip

    (samples, (step,)), (expected, (other,)) = sampled(with_patch(in_place)), sampled(with_patch(anew))
    assert relative(samples, expected) < 1e-5
    torch.testing.assert_close(step.size, other.size)


def patched_everywhere(monkeypatch):
    """A pack that replaces the attention of all models, and reads the weights itself."""
    def forward(self, x, context=None, value=None, mask=None, transformer_options=None):
        context = x if context is None else context
        q, k, v = (torch.nn.functional.linear(states, layer.weight) for states, layer in
                   ((x, self.to_q), (context, self.to_k), (context, self.to_v)))
        out = host_attention.optimized_attention(q, k, v, self.heads, transformer_options=transformer_options)
        return self.to_out(out)

    monkeypatch.setattr(host_attention.CrossAttention, "forward", forward)


def test_a_pack_that_patches_attention_for_all_models(model, monkeypatch):
    expected, _ = sampled(model)
    patched_everywhere(monkeypatch)
    samples, steps = sampled(model)
    assert len(steps) == 1
    assert relative(samples, expected) < 1e-4


def test_what_leaves_no_gradient_is_named(model, monkeypatch):
    def fused_norm(q):
        raise RuntimeError("fused_norm: no autograd formula was registered")

    fused_norm.__code__ = fused_norm.__code__.replace(co_filename="/ComfyUI/custom_nodes/Fused/nodes.py")
    other = model.clone()
    other.set_model_attn1_patch(lambda q, k, v, options: (fused_norm(q), k, v))
    with pytest.raises(ValueError, match=r"Attend-and-Excite: no gradient .*in the model: Fused/nodes.py.*fused_norm"):
        run(excited(other), steps=2)
    patched_everywhere(monkeypatch)
    with pytest.raises(ValueError, match=r"all models, and not by this workflow: CrossAttention.forward by"):
        run(excited(other), steps=2)


@pytest.mark.parametrize("node", [easycache.EasyCacheNode, easycache.LazyCacheNode])
def test_beside_the_hosts_caches_in_either_order(model, node, caplog):
    """They spare most of these steps: EasyCache calls of the model, LazyCache what came before it on the model, too."""
    def cached(model):
        return first(node.execute(model, 1e6, 0.0, 1.0, False))

    def watching(executor, *args, **kwargs):
        seen.append(EXTRA_PASS in args[-1])
        return executor(*args, **kwargs)

    seen: list[bool] = []
    inner, inner_record = with_trace(model, **GENTLE)
    outer, outer_record = with_trace(cached(model), **GENTLE)
    images = []
    for other, record in ((cached(inner), inner_record), (outer, outer_record)):
        other.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "first_block_cache", watching)
        images.append(run(other, steps=8))
        moved = [step.step for step in record.of(images[-1]).steps]
        assert moved == [0, 1, 2, 3] or f"moved at {len(moved)} of 4 steps" in caplog.text
    assert 0 < len(seen) < 16 and not any(seen)
    if node is easycache.EasyCacheNode:
        assert relative(*images) < 1e-4 and "moved at" not in caplog.text


def with_first_block_cache(model):
    """As WaveSpeed does it: a wrapper of the model's call that counts calls and goes on from the first block."""
    state = {"calls": 0, "finished": 0}

    def model_unet_function_wrapper(model_function, kwargs):
        state["calls"] += 1
        result = model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])
        state["finished"] += 1
        assert state["calls"] == state["finished"], "hidden_states_residual must be set before"
        return result

    model_unet_function_wrapper.__qualname__ = "ApplyFBCacheOnModel.patch.<locals>.model_unet_function_wrapper"
    model = model.clone()
    model.set_model_unet_function_wrapper(model_unet_function_wrapper)
    return model, state


def test_the_gradient_pass_runs_without_a_first_block_cache(model):
    expected, _ = sampled(model)
    cached, state = with_first_block_cache(model)
    samples, steps = sampled(cached)
    assert torch.equal(samples, expected) and len(steps) == 1
    assert state["calls"] == 2


def bypass_lora(model):
    generator = torch.Generator().manual_seed(11)
    name = "lora_unet_output_blocks_4_1_transformer_blocks_0_attn2_to_k"
    weights = {f"{name}.lora_up.weight": torch.randn(128, 4, generator=generator),
               f"{name}.lora_down.weight": torch.randn(4, tiny.WIDTH, generator=generator)}
    return comfy.sd.load_bypass_lora_for_models(model, None, weights, 1.0, 0.0)[0]


def test_a_lora_in_bypass_mode_is_refused_and_leaves_no_trace():
    model = tiny.sd15()
    expected, _ = sampled(model)
    with pytest.raises(ValueError, match=r"replaced the forward .*bypass.*BypassForwardHook.*output_blocks.4"):
        run(excited(bypass_lora(model)), steps=2)
    layer = model.model.diffusion_model.output_blocks[4][1].transformer_blocks[0].attn2.to_k
    assert "forward" in vars(layer)  # the host has put the original back as an attribute of its own
    kept = vars(layer)["forward"]
    assert torch.equal(sampled(model)[0], expected)
    assert vars(layer)["forward"] is kept


def test_layers_that_another_workflow_has_left_replaced():
    model = tiny.sd15()
    for layer in model.model.diffusion_model.time_embed[::2]:
        layer.forward = lambda x, forward=layer.forward: forward(x)
    with pytest.raises(ValueError, match=r"time_embed.0, time_embed.2.*Nothing in this workflow does so"):
        run(excited(model), steps=2)


def animated(model):
    def sliding_windows(executor, *args, **kwargs):
        options = args[-1]
        assert EXTRA_PASS not in options or options["ad_params"]
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "ADE_diffusion_model", sliding_windows)
    return model


REFUSED = [(company.in_tiles, "16 x 12 of a latent of 16 x 24.*tiles"),
           (company.ReferenceOnly().patch, "ReferenceOnly .host.company.*IndexError"),
           (animated, "animated .tests.host.*KeyError: 'ad_params'")]


@pytest.mark.parametrize(("other", "message"), REFUSED)
def test_what_cannot_be_combined_is_said_in_a_sentence(model, other, message):
    with pytest.raises(ValueError, match=f"Attend-and-Excite: .*{message}"):
        run(excited(other(model)), steps=2)


def test_a_guider_that_gives_nan_is_named(model):
    class MegaGuider(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            return super().predict_noise(x, timestep, model_options or {}, seed) / 0

    guider = MegaGuider(excited(model, **GENTLE, active_share=0.5))
    guider.set_conds(tiny.prompt(0), tiny.prompt(1))
    latent = tiny.latent(1, 16, 24)
    for steps, where in ((2, "the sampled latent"), (4, "at step 2 of 4")):
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
        with pytest.raises(ValueError, match=f"Attend-and-Excite: {where}.*not finite.*MegaGuider"), \
                torch.inference_mode():
            guider.sample(torch.randn(latent.shape), latent, comfy.samplers.sampler_object("euler"), sigmas, seed=1)


def test_a_sampler_that_lies_about_its_sigma_is_told_of_before_and_after(model, caplog):
    def lying_sigma_sampler(model, x, sigmas, **kwargs):
        class Liar:
            def __getattr__(self, name):
                return getattr(model, name)

            def __call__(self, x, sigma, **extra):
                return model(x, sigma * 0.95, **extra)

        return comfy.samplers.sampler_object("euler").sampler_function(Liar(), x, sigmas, **kwargs)

    liar = excited(model, **GENTLE)
    guider = comfy.samplers.CFGGuider(liar)
    guider.set_conds(tiny.prompt(0), tiny.prompt(1))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
    latent = tiny.latent(1, 16, 24)
    with torch.inference_mode():
        guider.sample(torch.randn(latent.shape), latent, comfy.samplers.KSAMPLER(lying_sigma_sampler), sigmas, seed=1)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "lying_sigma_sampler is not one" in messages[0]
    assert "moved at 0 of 1 steps" in messages[1]


def test_negpips_columns_are_read_in_pairs(model):
    """NegPip encodes a prompt to twice its columns: each token's key, then its value."""
    def attn2_negpip(q, k, v, options):
        return q, k[:, 0::2], v[:, 1::2]

    negpip = model.clone()
    negpip.set_model_attn2_patch(attn2_negpip)
    negpip.model_options["ppm_negpip"] = True

    def doubled(prompt):
        ((text, extra),) = prompt
        return [[text.repeat_interleave(2, dim=1), extra]]

    words = PromptWords((Word("cat", (2,)), Word("balloon", (5,))), 77)
    prompt = tiny.prompt(0, **{CONDITIONING_KEY: words})
    negative = doubled(tiny.prompt(1))
    for name in ("cat, balloon", "#2, #5"):
        expected, record = with_trace(model, **GENTLE, words=name)
        steps = record.of(run(expected, prompt, steps=2)).steps
        paired, record = with_trace(negpip, **GENTLE, words=name)
        samples = tiny.sample(paired, doubled(prompt), negative, steps=2, samples=tiny.latent(1, 16, 24))
        for ours, theirs in zip(record.of(samples).steps, steps, strict=True):
            torch.testing.assert_close(ours.before, theirs.before)


def test_a_compiled_model_stays_compiled_but_for_the_pass_that_is_differentiated(model, caplog):
    compiled, graphs = company.compiled(model)
    expected, _ = sampled(model)
    samples, (step,) = sampled(compiled)
    assert relative(samples, expected) < 1e-4 and step.size > 0
    assert graphs and "uncompiled" not in caplog.text
    torch.compiler.reset()
