"""Attend-and-Excite in the host: what it leaves alone, what it composes with, and the weights it can work with."""

from __future__ import annotations

import itertools

import comfy.controlnet
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import comfy_extras.nodes_context_windows as context_windows
import pytest
import torch
from host import tiny
from host.attend_excite_runs import excited, in_inference_mode, run, traced, with_trace
from host.scfg_runs import relative, with_regions
from host.sega_runs import with_sega

from semantic_guidance.attention_hooks.families import layers_near, model_family, model_layers
from semantic_guidance.guidance.attend_excite import Excitation
from semantic_guidance.sampling.attend_excite import gradient as attention_gradient
from semantic_guidance.sampling.attend_excite.frozen_layers import differentiable
from semantic_guidance.sampling.attend_excite.plan import plan_steps
from semantic_guidance.sampling.attend_excite.trace import Trace
from semantic_guidance.sampling.percent import percent_at
from semantic_guidance.words.prompt import CONDITIONING_KEY, PromptWords, Word

WORDS = PromptWords((Word("a", (1,)), Word("cat", (2,)), Word("red", (4,)), Word("balloon", (5,))), 77)


def prompt(**values):
    return tiny.prompt(0, **{CONDITIONING_KEY: WORDS, **values})


@pytest.fixture(scope="module")
def plain(sd15):
    return run(sd15)


@pytest.fixture(scope="module")
def moved(sd15):
    return traced(sd15)


def test_it_changes_the_image_and_says_how(plain, moved):
    samples, trace = moved
    assert relative(samples, plain) > 0.05
    assert [step.step for step in trace.steps] == [0, 1]
    assert trace.words == ("#2", "#5")
    assert trace.steps[0].maps.shape == (1, 2, 8, 12)
    assert torch.allclose(trace.steps[0].maps.amax((-2, -1)), trace.steps[0].after.half())
    for word in trace.words:
        assert "attention to" in trace.summary() and word in trace.summary()
    assert f"{sum(int(step.refinements) for step in trace.steps)} refinements" in trace.summary()


@pytest.mark.identity
@pytest.mark.parametrize("settings", [{"scale_factor": 0.0}, {"active_share": 0.0}])
def test_strength_zero_and_no_steps_are_the_host_alone(sd15, plain, settings):
    assert torch.equal(run(excited(sd15, **settings)), plain)


def test_twice_is_the_same_twice_and_leaves_nothing_behind(sd15, plain, moved):
    assert torch.equal(run(excited(sd15)), moved[0])
    assert torch.equal(run(sd15), plain)
    assert not any("forward" in vars(module) for module in sd15.model.diffusion_model.modules())


def test_weights_that_are_inference_tensors_give_the_same(moved):
    assert torch.equal(run(excited(in_inference_mode(tiny.sd15()))), moved[0])


def test_frozen_layers_have_the_output_and_the_gradient_of_autograd(sd15):
    unet = sd15.model.diffusion_model
    x, weight = torch.randn((2, 1, 4, 16, 16), generator=torch.Generator().manual_seed(6)).double()
    timestep, context = torch.tensor([500.0]), tiny.prompt(0)[0][0].double()

    def output_and_gradient():
        leaf = x.clone().requires_grad_()
        output = unet(leaf, timestep, context=context, transformer_options={})
        return output.detach(), torch.autograd.grad((output * weight).sum(), leaf)[0]

    expected = output_and_gradient()
    with torch.inference_mode(), differentiable(sd15.model, "test"):
        frozen = output_and_gradient()
    assert torch.equal(frozen[0], expected[0])
    torch.testing.assert_close(frozen[1], expected[1])


def test_images_of_a_batch_move_as_they_do_alone(sd15):
    noise = torch.randn((2, 4, 16, 16), generator=torch.Generator().manual_seed(1))
    settings = dict(active_share=0.25)
    _, together = traced(sd15, settings, batch=2, size=(16, 16), noise=noise, steps=2)
    for image in range(2):
        _, alone = traced(sd15, settings, size=(16, 16), noise=noise[[image]], steps=2)
        for name in ("before", "after", "size", "refinements"):
            torch.testing.assert_close(getattr(together.steps[0], name)[[image]], getattr(alone.steps[0], name))


def test_a_lora_counts_in_the_gradient_however_it_is_applied():
    """To the bit, in float32: that is what the host adds LoRAs in."""
    sd15, direct = tiny.sd15(dtype=torch.float32), tiny.sd15(dtype=torch.float32)
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"
    weight = sd15.model.diffusion_model.get_parameter(key.removeprefix("diffusion_model."))
    difference = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)) * 0.2
    loaded, at_each_call = sd15.clone(), sd15.clone()
    loaded.add_patches({key: ("diff", (difference,))})
    at_each_call.add_weight_wrapper(key, lambda weight: weight + difference)
    direct.model.diffusion_model.get_parameter(key.removeprefix("diffusion_model.")).data += difference
    expected = run(excited(direct), steps=2)
    assert torch.equal(run(excited(loaded), steps=2), expected)
    assert torch.equal(run(excited(at_each_call), steps=2), expected)


def test_activations_may_wait_in_ram_when_memory_is_short(sd15, moved, monkeypatch):
    evaluate = attention_gradient.AttentionGradient._evaluate

    def short_of_memory(self, *args):
        if not self._in_ram:
            raise torch.OutOfMemoryError("no room")
        return evaluate(self, *args)

    monkeypatch.setattr(attention_gradient.AttentionGradient, "_evaluate", short_of_memory)
    assert torch.equal(run(excited(sd15)), moved[0])


def test_the_forward_stops_after_the_last_layer_read(sd15):
    model, called = excited(sd15, active_share=0.25, max_refinements=0), []
    unet = sd15.model.diffusion_model
    handles = [block[-1].register_forward_hook(lambda *args, n=n: called.append(n))
               for n, block in enumerate(unet.output_blocks)]
    try:
        run(model, steps=2)
    finally:
        [handle.remove() for handle in handles]
    assert called == [*range(8), *range(12), *range(12)]  # output block 8 was entered, not finished


def test_an_interrupt_restores_everything(sd15, plain):
    comfy.model_management.interrupt_current_processing(False)
    model, evaluations = excited(sd15), []

    def interrupting(module, args):
        evaluations.append(torch.is_inference_mode_enabled())
        if len(evaluations) == 2:
            comfy.model_management.interrupt_current_processing()

    handle = sd15.model.diffusion_model.middle_block[0].register_forward_pre_hook(interrupting)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(model)
    finally:
        handle.remove()
        comfy.model_management.interrupt_current_processing(False)
    assert len(evaluations) == 2
    assert evaluations == [False, False]
    assert torch.equal(run(sd15), plain)


def test_beside_scfg_each_does_its_own(sd15, moved):
    watched, record = with_regions(excited(sd15), strength=0.0)
    samples = run(watched)
    assert torch.equal(samples, moved[0])
    assert len(record.of(samples).steps) == 4
    both = run(with_regions(excited(sd15))[0])
    other_order = run(excited(with_regions(sd15)[0]))
    assert torch.equal(both, other_order)
    assert relative(both, moved[0]) > 1e-3


def test_a_mask_moves_only_what_is_painted(sd15):
    mask = torch.zeros(1, 1, 16, 24)
    original = torch.randn((1, 4, 16, 24), generator=torch.Generator().manual_seed(4))
    everything = run(excited(sd15), samples=original, noise_mask=torch.ones_like(mask))
    assert relative(everything, run(excited(sd15), samples=original)) < tiny.EXACT
    mask[..., :12] = 1
    painted = run(excited(sd15), samples=original, noise_mask=mask)
    host = run(sd15, samples=original, noise_mask=mask)
    assert torch.equal(painted[..., 12:], host[..., 12:])
    assert relative(painted[..., :12], host[..., :12]) > 0.01


def test_words_and_areas(sd15):
    cat = prompt(area=(16, 12, 0, 0))
    other = tiny.prompt(3, area=(16, 12, 0, 12), **{CONDITIONING_KEY: PromptWords((Word("dog", (3,)),), 77)})
    _, trace = traced(sd15, {"words": "cat, dog", "max_refinements": 0}, positive=[*cat, *other], steps=2)
    maps = trace.steps[0].maps[0]
    assert maps[0, :, :6].max() > 0 and maps[0, :, 6:].max() == 0
    assert maps[1, :, :6].max() == 0 and maps[1, :, 6:].max() > 0


class Control(comfy.controlnet.ControlBase):
    """Adds the same to whatever it is asked for."""

    def get_control(self, x, t, cond, batched_number, transformer_options):
        generator = torch.Generator().manual_seed(0)
        height, width = x.shape[-2:]
        shapes = [(32, 1)] * 3 + [(32, 2)] + [(64, 2)] * 2 + [(64, 4)] + [(128, 4)] * 2 + [(128, 8)] * 3
        return {"output": [torch.randn((1, c, height // s, width // s), generator=generator).repeat(len(x), 1, 1, 1)
                           for c, s in shapes]}


def test_a_controlnet_is_part_of_what_is_differentiated(sd15):
    _, trace = traced(sd15, dict(max_refinements=0), positive=tiny.prompt(0, control=Control()), steps=2)
    _, without = traced(sd15, dict(max_refinements=0), steps=2)
    assert (trace.steps[0].before - without.steps[0].before).abs().max() > 1e-3
    assert trace.steps[0].size > 0


def test_a_run_that_starts_in_the_middle_is_the_middle_of_a_run(sd15):
    sampling = sd15.get_model_object("model_sampling")
    full = comfy.samplers.calculate_sigmas(sampling, "normal", 20)
    whole = plan_steps(Excitation(), sampling, full, empty=True)
    assert sorted(whole) == list(range(10))
    rest = plan_steps(Excitation(), sampling, full[6:], empty=False)
    assert sorted(rest) == [0, 1, 2, 3]
    assert rest[0].alpha == pytest.approx(whole[6].alpha, rel=0.02)
    assert plan_steps(Excitation(), sampling, full[12:], empty=False) == {}
    assert sorted(plan_steps(Excitation(), sampling, full[:6], empty=True)) == list(range(5))
    assert percent_at(sampling, sampling.percent_to_sigma(0.3)) == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize(
    ("latent", "scale"), [((64, 64), 4), ((96, 96), 4), ((32, 32), 2), ((64, 96), 4), ((128, 128), 4), ((16, 16), 1)]
)
def test_the_grid_is_the_one_nearest_to_16x16(sd15, latent, scale):
    chosen, layers = layers_near(model_family(sd15, "test"), model_layers(sd15, "test"), None, latent, "test")
    assert chosen == scale
    assert len(layers) == 5 and all(layer.downsample == scale for layer in layers)


@pytest.mark.parametrize(
    ("words", "message"),
    [("", "no words are given.*cat, red, balloon"), ("horse", '"horse" is not in the prompt.*cat'),
     ("cat, #99", "no token #99")],
)
def test_words_that_cannot_be_found(sd15, words, message):
    with pytest.raises(ValueError, match=f"Attend-and-Excite.*{message}"):
        run(excited(sd15, words=words), prompt())


def test_an_empty_latent_starts_from_noise_at_whatever_sigma(sd15):
    sampling = sd15.get_model_object("model_sampling")
    low = comfy.samplers.calculate_sigmas(sampling, "normal", 20)[12:]  # as some schedulers of other packs begin
    assert sorted(plan_steps(Excitation(), sampling, low, empty=True)) == [0, 1, 2, 3]
    assert plan_steps(Excitation(), sampling, low, empty=False) == {}
    sampler = comfy.samplers.sampler_object("euler")
    for latent, moved in ((tiny.latent(1, 16, 16), 4), (torch.ones(1, 4, 16, 16), 0)):
        model, record = with_trace(sd15, max_refinements=0)
        with torch.inference_mode():
            samples = comfy.sample.sample_custom(
                model, torch.randn(latent.shape), 5.0, sampler, low, tiny.prompt(0), tiny.prompt(1), latent,
                disable_pbar=True, seed=1,
            )
        assert len(record.of(samples).steps) == moved


@pytest.mark.parametrize("name", ["uni_pc", "sa_solver", "dpm_adaptive"])
def test_samplers_whose_latent_cannot_be_moved(sd15, name):
    with pytest.raises(ValueError, match=f"Attend-and-Excite: the sampler {name} "):
        run(excited(sd15), sampler=name)


def test_context_windows_are_refused(sd15):
    window = context_windows.ContextWindowsManualNode.execute(
        excited(sd15), context_length=2, context_overlap=1, context_schedule="standard_static", context_stride=1,
        closed_loop=False, fuse_method="pyramid", dim=0, freenoise=False,
    ).result[0]
    with pytest.raises(ValueError, match="context windows"):
        run(window, batch=3, size=(16, 16))


def test_quantised_weights_are_refused_by_name():
    model = tiny.sd15()
    layer = model.model.diffusion_model.time_embed[0]
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="Attend-and-Excite.*BaseModel.*time_embed.0 is a Linear.*int8"):
        with_trace(model)


def test_no_effect_is_said():
    nothing = Trace(("cat",), (), 20, (), torch.zeros(1))
    assert nothing.summary().startswith("no effect: sampling started after")


@pytest.mark.parametrize("family", ["sd21", "sdxl", "refiner"])
def test_every_family_that_it_knows(family):
    model = getattr(tiny, family)()
    samples, trace = traced(model, dict(max_refinements=0, map_scale="auto"), steps=2)
    assert len(trace.steps) == 1 and trace.steps[0].size > 0
    assert relative(samples, run(model, steps=2)) > 1e-3


def test_beside_scfg_and_sega_in_any_order(sd15, moved):
    def with_regions_alone(model):
        return with_regions(model)[0]

    patches = (excited, with_sega, with_regions_alone)
    images = []
    for order in itertools.permutations(patches):
        model = sd15
        for patch in order:
            model = patch(model)
        images.append(run(model))
    for image in images[1:]:
        assert relative(image, images[0]) < tiny.EXACT
    for left_out in patches:
        model = sd15
        for patch in patches:
            model = model if patch is left_out else patch(model)
        assert relative(images[0], run(model)) > 1e-3


def test_a_custom_sampler_moves_as_ksampler_does(sd15, moved):
    model = excited(sd15)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 4)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny.prompt(0), tiny.prompt(1))
    guider.set_cfg(7.5)
    latent = tiny.latent(1, 16, 24)
    with torch.inference_mode():
        image = guider.sample(
            comfy.sample.prepare_noise(latent, 7), latent, comfy.samplers.sampler_object("euler"), sigmas, seed=7
        )
    assert torch.equal(image, moved[0])


def test_progress_moves_during_refinements(sd15):
    seen = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: seen.append(value / total))
    try:
        _, trace = traced(sd15, dict(max_refinements=3), steps=4)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert int(trace.steps[0].refinements) == 3
    assert seen == sorted(seen)
    assert any(0 < value < 1 / 4 for value in seen)  # within the first of four steps
