"""Word Mask on tiny models: what it reads, where it puts it, and what it leaves alone."""

from __future__ import annotations

import logging

import comfy.controlnet
import comfy.hooks
import comfy.patcher_extension
import folder_paths
import nodes as host_nodes
import pytest
import torch
import torch.nn.functional as F
from host import scfg_runs, tiny, tiny_clip
from node_defaults import defaults

from semantic_guidance.attention_hooks.families import layers_at, model_family, model_layers
from semantic_guidance.guidance.smoothing import smooth
from semantic_guidance.nodes.word_mask import SemanticGuidanceWordMask
from semantic_guidance.sampling.word_mask import DOWNSAMPLE, noise_sigma, word_maps
from semantic_guidance.words.prompt import CONDITIONING_KEY

DEFAULTS = defaults(SemanticGuidanceWordMask)
H, W = 16, 24
HALF = 1 - 500 / 999  # noise level of a timestep; 0.5 lies between two, and rounding would choose
TEXT = "a cat and a red balloon"  # a 1, cat 2, and 3, a 4, red 5, balloon 6


@pytest.fixture(scope="module")
def clip():
    return tiny_clip.clip("sd1")


@pytest.fixture(scope="module")
def model():
    return tiny.sd15()


@pytest.fixture(autouse=True)
def previews(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return tmp_path


def prompt(clip, text: str = TEXT, seed: int = 0) -> list:
    """Random embeddings of a prompt with real words, so that prompts of any length are at hand at once."""
    words = tiny_clip.words(clip, text)
    return tiny.prompt(seed, words.length, **{CONDITIONING_KEY: words})


def latent(batch: int = 1, height: int = H, width: int = W) -> dict:
    generator = torch.Generator().manual_seed(5)
    return {"samples": torch.randn((batch, 4, height, width), generator=generator)}


def maps(model, conditioning, words=("cat",), noise_level: float = HALF, completion: str = "as released", **kwargs):
    given = kwargs.pop("latent", None) or latent()
    with torch.inference_mode():
        return word_maps(model, conditioning, given, list(words), noise_level, completion, **kwargs)


def attention(*args, **kwargs) -> torch.Tensor:
    return torch.stack([seen.attention for seen in maps(*args, **kwargs)])


def execute(model, conditioning, words: str, **inputs):
    inputs = {**DEFAULTS, "latent": latent(), **inputs, "words": words}
    with torch.inference_mode():
        return SemanticGuidanceWordMask.execute(model, conditioning, **inputs)


class TestAttention:
    @pytest.mark.parametrize("build", [tiny.sd15, tiny.sdxl])
    @pytest.mark.parametrize("noise_level", [0.0, 0.3, 1.0])
    def test_is_that_of_the_noised_latent(self, clip, build, noise_level):
        """Against the maps of one direct call of the model, worked out here from its queries and keys."""
        patcher = build()
        conditioning, given = prompt(clip), latent(2)
        scale, layers = layers_at(model_family(patcher, "test"), model_layers(patcher, "test"), DOWNSAMPLE, "")
        wanted = {(layer.block, layer.depth) for layer in layers}
        grid = (-(-H // scale), -(-W // scale))
        found = []

        def override(func, q, k, v, heads, *args, transformer_options, **kwargs):
            if k.shape[1] == 77 and (transformer_options["block"], transformer_options["block_index"]) in wanted:
                q_, k_ = (t.view(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k))
                probability = (q_ @ k_.transpose(-1, -2) / q_.shape[-1] ** 0.5).softmax(-1).mean(1)  # [B, P, 77]
                layer_grid = transformer_options["activations_shape"][-2:]
                picture = probability.transpose(1, 2).unflatten(2, tuple(layer_grid))
                picture = smooth(F.interpolate(picture, size=grid, mode="bilinear"))
                found.append(picture / picture.mean((-2, -1), keepdim=True))
            return func(q, k, v, heads, *args, transformer_options=transformer_options, **kwargs)

        sampling = patcher.model.model_sampling
        sigma = {0.0: sampling.sigma_min, 1.0: sampling.sigma_max}.get(noise_level)
        sigma = torch.as_tensor(sampling.percent_to_sigma(1 - noise_level) if sigma is None else sigma).float().double()
        noise = torch.randn(2, 4, H, W, generator=torch.Generator().manual_seed(11)).double()
        noise = noise * ((1 + sigma**2).sqrt() if noise_level == 1.0 else sigma)
        x = patcher.model.process_latent_in(given["samples"]) + noise
        text, extra = conditioning[0]
        conds = {"c_crossattn": text.expand(2, -1, -1)}
        if build is tiny.sdxl:
            conds["y"] = patcher.model.encode_adm(pooled_output=extra["pooled_output"], width=8 * W, height=8 * H)
            conds["y"] = conds["y"].expand(2, -1)
        with torch.inference_mode():
            patcher.model.apply_model(
                x, sigma.expand(2), transformer_options={"optimized_attention_override": override}, **conds
            )
        expected = torch.stack(found).mean(0)[:, [5, 6]].mean(1, keepdim=True)
        expected = F.interpolate(expected, (H, W), mode="bilinear")[:, 0]

        (seen,) = maps(patcher, conditioning, ["red balloon"], noise_level, "none", latent=given, seed=11)
        assert len(found) == len(layers)
        torch.testing.assert_close(seen.attention, expected.float())
        assert (seen.share == 1).all()

    def test_a_phrase_is_the_mean_of_its_tokens(self, clip, model):
        phrase, red, balloon = attention(model, prompt(clip), ["red balloon", "#5", "#6"])
        torch.testing.assert_close(phrase, (red + balloon) / 2)
        assert not torch.allclose(red, balloon, atol=1e-3)

    def test_batch_equals_singles(self, clip, model):
        both = latent(2)
        together = attention(model, prompt(clip), latent=both)
        for number in range(2):
            single = {"samples": both["samples"][number : number + 1], "batch_index": [number]}
            alone = attention(model, prompt(clip), latent=single)
            torch.testing.assert_close(together[:, number : number + 1], alone)

    def test_seed_noise_level_and_completion_matter_and_repeat(self, clip, model):
        first = attention(model, prompt(clip))
        assert torch.equal(first, attention(model, prompt(clip)))
        assert not torch.allclose(first, attention(model, prompt(clip), seed=1), atol=1e-4)
        assert not torch.allclose(first, attention(model, prompt(clip), noise_level=0.9), atol=1e-4)
        assert not torch.allclose(first, attention(model, prompt(clip), completion="none"), atol=1e-4)

    @pytest.mark.parametrize("size", [(36, 44), (17, 23)])
    def test_odd_sizes(self, clip, model, size):
        found = attention(model, prompt(clip), latent=latent(1, *size))
        assert found.shape[-2:] == size and found.isfinite().all()

    def test_half_precision(self, clip):
        found = attention(tiny.sd15(dtype=torch.bfloat16), prompt(clip))
        assert torch.allclose(found, attention(tiny.sd15(), prompt(clip)), atol=0.05)

    def test_noise_level_is_a_share_of_the_schedule(self, model):
        sampling = model.model.model_sampling
        assert noise_sigma(model, 1.0) == pytest.approx(float(sampling.sigma_max))
        assert noise_sigma(model, 0.0) == pytest.approx(float(sampling.sigma_min))
        assert noise_sigma(model, 0.25) == pytest.approx(sampling.percent_to_sigma(0.75))


class TestSeveralPrompts:
    def test_two_prompts_count_equally(self, clip, model):
        """Both have the word; each alone, with the same noise, gives the halves of the mean."""
        one, two = prompt(clip, seed=1), prompt(clip, "a cat", seed=2)
        (both,) = maps(model, one + two)
        halves = [attention(model, each)[0] for each in (one, two)]
        torch.testing.assert_close(both.attention, sum(halves) / 2)
        assert (both.share == 1).all()

    def test_the_word_belongs_to_the_prompt_that_has_it(self, clip, model):
        one, two = prompt(clip, "a cat", 1), prompt(clip, "a dog", 2)
        found = maps(model, one + two, ["cat", "dog"])
        for seen, each in zip(found, (one, two), strict=True):
            torch.testing.assert_close(seen.attention, attention(model, each, [seen.phrase])[0])
            assert (seen.share == 0.5).all()

    def test_prompts_of_different_lengths(self, clip, model):
        """The host repeats the shorter one in a joint call."""
        long = prompt(clip, "house, " * 60 + "dog", 2)
        assert long[0][0].shape[1] == 154
        (seen,) = maps(model, prompt(clip) + long)
        torch.testing.assert_close(seen.attention, attention(model, prompt(clip))[0])

    def test_separate_calls_equal_one_joint_call(self, clip, monkeypatch):
        model, both = tiny.sd15(), prompt(clip, "a cat", 1) + prompt(clip, "a dog", 2)
        joint = attention(model, both, ["cat", "dog"])
        calls = []
        original = model.model.apply_model
        monkeypatch.setattr(model.model, "memory_required", lambda shape, **kwargs: 1e30)
        monkeypatch.setattr(model.model, "apply_model", lambda x, *a, **k: calls.append(len(x)) or original(x, *a, **k))
        separate = attention(model, both, ["cat", "dog"])
        assert calls == [1, 1]
        torch.testing.assert_close(joint, separate)

    def test_masked_prompts(self, clip, model):
        left = torch.zeros(1, 8 * H, 8 * W)
        left[..., : 4 * W] = 1
        (cat,) = host_nodes.ConditioningSetMask().append(prompt(clip, "a cat", 1), left, "default", 1.0)
        (dog,) = host_nodes.ConditioningSetMask().append(prompt(clip, "a dog", 2), 1 - left, "default", 1.0)
        for seen, inside in zip(maps(model, cat + dog, ["cat", "dog"]), (left, 1 - left), strict=True):
            assert (seen.share == inside[..., ::8, ::8]).all()
        masks = execute(model, cat + dog, "cat, dog").result[0]
        assert masks[0, :, 4 * W + 8 :].max() == 0 and masks[1, :, : 4 * W - 8].max() == 0
        assert masks[0].max() == 1 and masks[1].max() == 1

    def test_an_area_prompt_is_placed_in_its_area(self, clip, model):
        (area,) = host_nodes.ConditioningSetArea().append(prompt(clip, "a cat", 1), 96, 64, 48, 32, 1.0)
        (seen,) = maps(model, prompt(clip, "a house", 2) + area)
        inside = torch.zeros(1, H, W, dtype=torch.bool)
        inside[:, 4:12, 6:18] = True
        assert torch.equal(seen.share > 0, inside)
        assert (seen.attention > 0)[inside].all() and not seen.attention[~inside].any()

    def test_timestep_ranges(self, clip, model):
        (early,) = host_nodes.ConditioningSetTimestepRange().set_range(prompt(clip, "a cat", 1), 0.0, 0.4)
        (late,) = host_nodes.ConditioningSetTimestepRange().set_range(prompt(clip, "a dog", 2), 0.4, 1.0)
        (seen,) = maps(model, early + late, ["cat"], noise_level=0.8)
        assert (seen.share == 1).all()
        with pytest.raises(ValueError, match='"dog" does not act at this noise level'):
            maps(model, early + late, ["dog"], noise_level=0.8)


class TestHost:
    """The call goes through the host's own machinery."""

    def test_hooks_of_a_cond(self, clip, model):
        name = "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_q.weight"
        hooks = comfy.hooks.create_hook_model_as_lora({name: -model.model.state_dict()[name]}, None, 1.0, 1.0)
        hooks.set_keyframes_on_hooks(None)
        hooked = comfy.hooks.set_hooks_for_conditioning(prompt(clip), hooks)
        assert not torch.allclose(attention(model, hooked), attention(model, prompt(clip)), atol=1e-3)
        assert torch.equal(attention(model, prompt(clip)), attention(tiny.sd15(), prompt(clip)))

    def test_controlnet(self, clip, model):
        class Control(comfy.controlnet.ControlBase):
            def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
                return {"middle": [torch.ones(1)], "output": []}

        control = Control()
        controlled = [[text, {**extra, "control": control}] for text, extra in prompt(clip)]
        assert not torch.allclose(attention(model, controlled), attention(model, prompt(clip)), atol=1e-3)

    def test_wrappers_see_exactly_one_call(self, clip):
        model, calls = tiny.sd15(), []
        for place in ("OUTER_SAMPLE", "PREDICT_NOISE", "CALC_COND_BATCH", "APPLY_MODEL", "DIFFUSION_MODEL"):
            def wrapper(executor, *args, place=place, **kwargs):
                calls.append(place)
                return executor(*args, **kwargs)

            model.add_wrapper_with_key(getattr(comfy.patcher_extension.WrappersMP, place), "test", wrapper)
        expected = attention(tiny.sd15(), prompt(clip))
        assert torch.equal(attention(model, prompt(clip)), expected)
        assert calls == ["OUTER_SAMPLE", "PREDICT_NOISE", "CALC_COND_BATCH", "APPLY_MODEL", "DIFFUSION_MODEL"]

    def test_guidance_of_other_nodes_is_not_run(self, clip):
        model = tiny.sd15()
        model.set_model_sampler_post_cfg_function(lambda args: pytest.fail("guidance was run"), True)
        model.set_model_sampler_pre_cfg_function(lambda args: pytest.fail("guidance was run"))
        assert attention(model, prompt(clip)).isfinite().all()

    def test_beside_scfg(self, clip, caplog):
        model, record = scfg_runs.with_regions(tiny.sd15())
        samples = scfg_runs.run(model)
        with caplog.at_level(logging.WARNING):
            assert torch.equal(attention(model, prompt(clip)), attention(tiny.sd15(), prompt(clip)))
        assert not [said for said in caplog.records if said.name != "root"]  # the host's own logger
        assert len(record._runs) == 1 and record.of(samples).steps
        assert torch.equal(scfg_runs.run(model), samples)

    def test_leaves_the_model_and_the_inputs_alone(self, clip):
        model, conditioning, given = tiny.sd15(), prompt(clip), latent()
        before, samples = (repr(model.model_options), repr(model.wrappers)), given["samples"].clone()
        plain = scfg_runs.run(tiny.sd15())
        attention(model, conditioning, latent=given)
        assert (repr(model.model_options), repr(model.wrappers)) == before
        assert torch.equal(given["samples"], samples) and given.keys() == {"samples"}
        assert conditioning[0][1].keys() == {"pooled_output", CONDITIONING_KEY}
        assert torch.equal(scfg_runs.run(model), plain)

    def test_a_latent_with_an_inpainting_mask(self, clip, model):
        masked = {**latent(), "noise_mask": torch.ones(1, 1, 8 * H, 8 * W)}
        masked["noise_mask"][..., : 4 * W] = 0
        torch.testing.assert_close(attention(model, prompt(clip), latent=masked), attention(model, prompt(clip)))

    def test_blocks_that_another_node_replaces_are_left_out(self, clip, caplog):
        model = tiny.sd15()
        model.set_model_attn2_replace(lambda q, k, v, extra: q, "output", 4)
        assert attention(model, prompt(clip)).isfinite().all()
        assert "Word Mask: another node changes the attention of block output 4" in caplog.text

    def test_reference_only_is_left_out(self, clip):
        """It attends to pictures that it has put into the batch that it gives to the sampler."""
        class ReferenceOnlySimple:
            def patched(self, model):
                def reference_apply(q, k, v, extra):
                    k = k.repeat(1, 2, 1)
                    k[1, q.shape[1] :] = q[0]
                    return q, k, k

                model.set_model_attn1_patch(reference_apply)
                return model

        model = ReferenceOnlySimple().patched(tiny.sd15())
        (function,) = model.model_options["transformer_options"]["patches"]["attn1_patch"]
        function.__qualname__ = "ReferenceOnlySimple.patched.<locals>.reference_apply"
        assert torch.equal(attention(model, prompt(clip)), attention(tiny.sd15(), prompt(clip)))
        assert model.model_options["transformer_options"]["patches"]["attn1_patch"] == [function]

    def test_an_unknown_family_is_told(self, clip, model):
        class Other(comfy.model_base.BaseModel):
            pass

        strange = tiny.sd15()
        strange.model.__class__ = Other
        with pytest.raises(ValueError, match="Word Mask: the model is a Other"):
            maps(strange, prompt(clip))


class TestNode:
    def test_masks_are_ordered_by_word_then_latent(self, clip, model):
        masks, heat = execute(model, prompt(clip), "cat, red balloon", latent=latent(2)).result
        assert masks.shape == (4, 8 * H, 8 * W) and len(heat) == 4 and heat.shape[-1] == 3
        words = [execute(model, prompt(clip), word, latent=latent(2)).result[0] for word in ("cat", "red balloon")]
        assert torch.equal(masks, torch.cat(words))
        assert 0 <= masks.amin() < 0.02 and torch.equal(masks.amax(dim=(-2, -1)), torch.ones(4))

    def test_hard_masks_follow_the_threshold(self, clip, model):
        soft = execute(model, prompt(clip), "cat").result[0]
        for threshold in (0.3, 0.7):
            hard = execute(model, prompt(clip), "cat", mask="hard", threshold=threshold).result[0]
            assert torch.equal(hard, (soft >= threshold).float())

    def test_masks_take_the_size_of_the_image(self, clip, model):
        masks, heat = execute(model, prompt(clip), "cat, red", image=torch.rand(1, 96, 144, 3)).result
        assert masks.shape == (2, 96, 144) and masks.dtype == torch.float32
        plain = execute(model, prompt(clip), "cat, red").result[1]
        assert not torch.equal(heat, plain)

    def test_token_numbers_work_without_recorded_words(self, clip, model):
        named = execute(model, prompt(clip), "cat").result[0]
        assert torch.equal(execute(model, tiny.prompt(0), "#2").result[0], named)

    def test_the_preview_shows_the_heat_maps(self, clip, model, previews):
        output = execute(model, prompt(clip), "cat, red")
        assert len(output.ui.as_dict()["images"]) == len(list(previews.glob("*.png"))) == 2

    def test_a_map_that_is_nearly_uniform_is_told(self, clip, caplog):
        model = tiny.sd15()
        with torch.no_grad():
            for name, parameter in model.model.named_parameters():
                if ".attn2.to_q." in name:
                    parameter.zero_()
        with caplog.at_level(logging.WARNING):
            masks, _ = execute(model, prompt(clip), "cat").result
        assert 'the map of "cat" is nearly uniform' in caplog.text
        assert masks.isfinite().all()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("ct", 'Word Mask: "ct" is not in the prompt. Did you mean "cat"? Its words are: a, cat, and, red'),
            ("cat, red baloon", '"red baloon" is not in the prompt. Did you mean "red balloon"?'),
            ("xylophone", '"xylophone" is not in the prompt. Its words are: a, cat, and, red, balloon.'),
            (" , ", "no words are given. Name words of the prompt, separated by commas. It has: a, cat, and, red"),
            ("#77", "there is no token #77. The prompt has the tokens #0 to #76."),
        ],
    )
    def test_words_that_are_not_there(self, clip, model, words, message):
        with pytest.raises(ValueError) as error:
            execute(model, prompt(clip), words)
        assert message in str(error.value)

    def test_a_prompt_without_recorded_words_is_told(self, model):
        with pytest.raises(ValueError, match='Encode it with the "Prompt with Words" node, or give token numbers'):
            execute(model, tiny.prompt(0), "cat")
