"""SEGA beside what else a workflow may have: areas, masks, ControlNet, hooks, inpainting, other guidance."""

from __future__ import annotations

import comfy.context_windows
import comfy.controlnet
import comfy.hooks
import comfy.samplers
import nodes as host_nodes
import pytest
import torch
import torch.nn.functional as F
from comfy_extras import nodes_custom_sampler, nodes_model_advanced, nodes_pag, nodes_perpneg
from host import tiny, tiny_clip
from host.scfg_runs import relative, with_scfg
from host.sega_runs import SIZE, concept, concepts, run, with_sega

from semantic_guidance.nodes.prompt import SemanticGuidancePrompt

NEGATIVE = 1  # the prompt that edits are measured against, see scfg_runs.run
STEPS = 3


@pytest.fixture(scope="module")
def model():
    return tiny.sd15()


def left_half(size=SIZE) -> torch.Tensor:
    mask = torch.zeros(1, size[0] * 8, size[1] * 8)
    mask[..., : size[1] * 4] = 1
    return mask


def changed(model, chain, **kwargs) -> torch.Tensor:
    """Where one step of sampling with the edits differs from the host's, [B, H, W]."""
    settings = {"steps": 10, "last_step": 1, **kwargs}
    difference = run(with_sega(model, chain), **settings) - run(model, **settings)
    return difference.abs().amax(dim=1) > 1e-2


class Control(comfy.controlnet.ControlBase):
    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        return {"middle": [torch.ones(1)], "output": []}


def with_control(prompt: list, control) -> list:
    return [[text, {**extra, "control": control}] for text, extra in prompt]


def hooked(model, prompt: list) -> list:
    name = "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_v.weight"
    hooks = comfy.hooks.create_hook_model_as_lora({name: -model.model.state_dict()[name]}, None, 1.0, 1.0)
    hooks.set_keyframes_on_hooks(None)
    return comfy.hooks.set_hooks_for_conditioning(prompt, hooks)


class TestConditioning:
    @pytest.mark.parametrize("case", ["plain", "areas", "masks", "controlnet", "control on the prompt", "hooks"])
    def test_a_concept_with_the_negative_prompts_text_is_no_edit(self, model, case):
        """Whatever the prompts carry besides text, the concept is evaluated with the same."""
        positive, negative = tiny.prompt(0), tiny.prompt(NEGATIVE)
        if case == "areas":
            positive = positive + host_nodes.ConditioningSetArea().append(tiny.prompt(5), 64, 64, 32, 0, 1.0)[0]
        elif case == "masks":
            (positive,) = host_nodes.ConditioningSetMask().append(positive, left_half(), "default", 1.0)
            positive = positive + tiny.prompt(5)
        elif case == "controlnet":
            control = Control()
            positive, negative = with_control(positive, control), with_control(negative, control)
        elif case == "control on the prompt":
            positive = [[text, {**extra, "control": Control(), "control_apply_to_uncond": True}]
                        for text, extra in positive]
        elif case == "hooks":
            positive, negative = hooked(model, positive), hooked(model, negative)
        plain = run(model, positive, negative, steps=STEPS)
        same = run(with_sega(model, concept(NEGATIVE, edit_guidance_scale=20.0)), positive, negative, steps=STEPS)
        other = run(with_sega(model, concept(edit_guidance_scale=20.0)), positive, negative, steps=STEPS)
        assert relative(same, plain) < tiny.EXACT < 1e-2 < relative(other, plain)

    def test_a_concept_acts_in_its_mask_alone(self, model):
        inside = left_half()[:, ::8, ::8].bool()
        where = changed(model, concept(mask=left_half(), threshold=0.0))
        assert where[inside].float().mean() > 0.9 and not where[~inside].any()

    def test_masks_of_a_batch(self, model):
        masks = torch.cat([left_half(), 1 - left_half()])
        where = changed(model, concept(mask=masks, threshold=0.0), batch=2)
        assert (where == masks[:, ::8, ::8].bool()).float().mean() > 0.9

    @pytest.mark.parametrize("kind", ["mask", "area"])
    def test_a_region_on_a_concepts_prompt(self, model, kind):
        if kind == "mask":
            (prompt,) = host_nodes.ConditioningSetMask().append(tiny.prompt(2), left_half(), "default", 1.0)
        else:
            (prompt,) = host_nodes.ConditioningSetArea().append(tiny.prompt(2), SIZE[1] * 4, SIZE[0] * 8, 0, 0, 1.0)
        inside = left_half()[:, ::8, ::8].bool()
        where = changed(model, concept(prompt, threshold=0.0))
        assert where[inside].float().mean() > 0.9 and not where[~inside].any()

    def test_a_timestep_range_on_a_concepts_prompt(self, model):
        (late,) = host_nodes.ConditioningSetTimestepRange().set_range(tiny.prompt(2), 0.5, 1.0)
        never = late[0][0], {**late[0][1], "start_percent": 1.0}
        plain = run(model, steps=STEPS)
        assert torch.equal(run(with_sega(model, concept([list(never)])), steps=STEPS), plain)
        assert relative(run(with_sega(model, concept(late)), steps=STEPS), plain) > 1e-3

    def test_a_hook_on_a_concepts_prompt_changes_the_weights_for_it_alone(self, model):
        plain = run(model, steps=STEPS)
        edited = run(with_sega(model, concept(hooked(model, tiny.prompt(NEGATIVE)))), steps=STEPS)
        assert relative(edited, plain) > 1e-3
        assert torch.equal(run(model, steps=STEPS), plain)

    def test_a_concepts_own_controlnet_is_used_for_it_alone(self, model):
        with_own = concept(with_control(tiny.prompt(NEGATIVE), Control()))
        assert relative(run(with_sega(model, with_own), steps=STEPS), run(model, steps=STEPS)) > 1e-3

    def test_prompts_of_different_lengths(self, model):
        long = concept(tiny.prompt(2, tokens=154))
        assert run(with_sega(model, long), steps=STEPS).isfinite().all()


@pytest.fixture(scope="module")
def clip():
    return tiny_clip.clip("sd1")


class TestConfineToWords:
    def encode(self, clip, text):
        return SemanticGuidancePrompt.execute(clip, text).result[0]

    def test_the_edit_stays_where_the_concepts_attention_to_the_word_is_strongest(self, clip):
        """LEDITS++'s M1, from attention maps that a replaced attention layer computes explicitly."""
        model, prompt, seen = tiny.sd15(), self.encode(clip, "a blue balloon"), []
        where = changed(model, concept(prompt, confine_to="balloon", threshold=0.75))[0]

        def attention(q, k, v, options):
            heads = options["n_heads"]
            q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
            weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
            if options["cond_or_uncond"] == [1] and len(seen) < 5:  # first the concept, then the negative prompt
                seen.append(weights[0, :, :, 3].mean(dim=0).unflatten(0, options["activations_shape"][-2:]))
            return (weights @ v).transpose(1, 2).flatten(2)

        watched = model.clone()
        for block in [("input", 7), ("input", 8), ("output", 3), ("output", 4), ("output", 5)]:
            watched.set_model_attn2_replace(attention, *block)
        run(with_sega(watched, concept(prompt)), steps=10, last_step=1)
        assert len(seen) == 5 and seen[0].shape == (SIZE[0] // 4, SIZE[1] // 4)
        taps = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).square().neg().softmax(0)  # 0.212, 0.576, 0.212
        padded = F.pad(sum(seen)[None, None] / 5, (1, 1, 1, 1), mode="reflect")
        smooth = F.conv2d(padded, torch.outer(taps, taps)[None, None])
        mask = F.interpolate((smooth >= smooth.flatten().quantile(0.75)).float(), SIZE)[0, 0].bool()
        assert where[mask].any() and not where[~mask].any()

    def test_words_that_are_not_there_are_told_before_sampling(self, clip, model):
        with pytest.raises(ValueError, match='SEGA: "ballon" is not in the prompt. Did you mean "balloon"'):
            with_sega(model, concept(self.encode(clip, "a blue balloon"), confine_to="ballon"))

    def test_a_model_whose_attention_cannot_be_read(self, clip):
        strange = tiny.sd15()
        strange.model.__class__ = type("Other", (strange.model.__class__,), {})
        confined = concept(self.encode(clip, "a blue balloon"), confine_to="balloon")
        with pytest.raises(ValueError, match="SEGA: the model is a Other"):
            with_sega(strange, confined)
        assert run(with_sega(strange, concept()), steps=1).isfinite().all()


class TestOtherGuidance:
    def test_before_or_after_scfg(self, model):
        chain = concepts({}, {"direction": "remove"})
        one, other = with_scfg(with_sega(model, chain)), with_sega(with_scfg(model), chain)
        assert relative(run(one, steps=STEPS), run(other, steps=STEPS)) < tiny.EXACT

    def test_beside_rescale_cfg_and_pag(self, model, monkeypatch):
        """Perturbed-attention guidance evaluates the prompt once more, without the concepts."""
        (rescaled,) = nodes_model_advanced.RescaleCFG().patch(model, 0.7)
        both = nodes_pag.PerturbedAttentionGuidance.execute(rescaled, 3.0).result[0]
        settings = {"steps": 10, "last_step": 1}
        edit = run(with_sega(model), **settings) - run(model, **settings)
        rows, original = [], model.model.apply_model
        monkeypatch.setattr(model.model, "apply_model", lambda x, *a, **k: rows.append(len(x)) or original(x, *a, **k))
        result = run(with_sega(both), **settings)
        assert rows == [3, 1]
        assert relative(result - run(both, **settings), edit) < tiny.EXACT

    def test_two_sega_nodes_add_up(self, model):
        """Without momentum, which each node has of its own."""
        first, second = concept(2), concept(3)
        nested = with_sega(with_sega(model, first, momentum_scale=0.0), second, momentum_scale=0.0)
        chained = with_sega(model, (*first, *second), momentum_scale=0.0)
        assert relative(run(nested, steps=STEPS), run(chained, steps=STEPS)) < tiny.EXACT

    def test_where_another_node_evaluates_the_prompts(self, model):
        """sampler_calc_cond_batch_function takes the place of the call that the concepts join."""
        replaced = model.clone()
        replaced.set_model_sampler_calc_cond_batch_function(
            lambda args: [comfy.samplers.calc_cond_batch(args["model"], [conds], args["input"], args["sigma"],
                                                         args["model_options"])[0] for conds in args["conds"]]
        )
        assert relative(run(with_sega(replaced), steps=STEPS), run(with_sega(model), steps=STEPS)) < tiny.EXACT

    def test_context_windows(self, model):
        """Windows without overlap divide a batch into parts that do not see each other."""
        windows = model.clone()
        windows.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
            context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
            fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"), context_length=2, context_overlap=0,
        )
        noise = torch.randn(4, 4, *SIZE, generator=torch.Generator().manual_seed(3))
        settings = {"batch": 4, "noise": noise, "steps": 2}
        assert relative(run(with_sega(windows), **settings), run(with_sega(model), **settings)) < tiny.EXACT

    def test_inpainting(self, model):
        samples = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(4))
        mask = left_half()[:, None, ::8, ::8]
        result = run(with_sega(model), samples=samples, noise_mask=mask, steps=STEPS)
        plain = run(model, samples=samples, noise_mask=mask, steps=STEPS)
        kept = mask.expand_as(samples) == 0
        assert torch.allclose(result[kept], samples[kept], rtol=tiny.EXACT, atol=0)
        assert not torch.allclose(result[~kept], plain[~kept], atol=1e-2)

    def test_sdxl(self):
        model = tiny.sdxl()
        assert relative(run(with_sega(model), steps=1), run(model, steps=1)) > 1e-3


class TestGuiders:
    def sampled(self, guider) -> torch.Tensor:
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(model_sampling, "normal", 10)[:2]
        noise = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(5))
        with torch.inference_mode():
            return guider.sample(noise, tiny.latent(1, *SIZE), comfy.samplers.sampler_object("euler"), sigmas, seed=5)

    @pytest.mark.parametrize("kind", ["cfg", "dual", "perp-neg"])
    def test_the_edit_is_the_same(self, model, kind):
        def guider(model):
            prompts = [tiny.prompt(0), tiny.prompt(NEGATIVE)]
            if kind == "cfg":
                guider = comfy.samplers.CFGGuider(model)
                guider.set_cfg(4.0)
            elif kind == "dual":
                guider = nodes_custom_sampler.Guider_DualCFG(model)
                guider.set_cfg(4.0, 2.0)
                prompts.insert(1, tiny.prompt(6))
            else:
                guider = nodes_perpneg.Guider_PerpNeg(model)
                guider.set_cfg(4.0, 1.0)
                prompts.append(tiny.prompt(6))
            guider.set_conds(*prompts)
            return guider

        edit = self.sampled(guider(with_sega(model))) - self.sampled(guider(model))
        settings = {"steps": 10, "last_step": 1}
        noise = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(5))
        expected = run(with_sega(model), noise=noise, **settings) - run(model, noise=noise, **settings)
        assert relative(edit, expected) < tiny.EXACT

    def test_a_guider_without_a_negative_prompt_is_told(self, model):
        guider = nodes_custom_sampler.Guider_Basic(with_sega(model))
        guider.set_conds(tiny.prompt(0))
        with pytest.raises(ValueError, match=r"SEGA: this sampler \(Guider_Basic\) has no negative prompt"):
            self.sampled(guider)
