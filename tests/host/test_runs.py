"""What a sampling run leaves behind, what it hands on to the next, and what samplers and guiders make of it."""

from __future__ import annotations

import gc
import weakref

import comfy.hooks
import comfy.model_management
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_hooks as hook_nodes
import comfy_extras.nodes_perpneg as perpneg
import pytest
import torch
from host import tiny
from host.scfg_runs import SIZE, probed, relative, run, with_regions, with_scfg

from semantic_guidance.sampling import record as record_module
from semantic_guidance.sampling import run as runs
from semantic_guidance.sampling.record import VALUES, fingerprint
from semantic_guidance.sampling.scfg import run as scfg


@pytest.mark.identity
@pytest.mark.parametrize("settings", [
    {"strength": 0.0},
    {"start_percent": 0.6, "end_percent": 0.6},
    {"rate_min": 1.0, "rate_max": 1.0, "scale_cap": 0.0},
])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_with_nothing_to_do_the_result_is_the_hosts_alone(sd15, settings, sampler):
    assert torch.equal(run(with_scfg(sd15, **settings), sampler=sampler), run(sd15, sampler=sampler))


@pytest.mark.identity
def test_the_same_graph_queued_twice_gives_the_same_image(sd15):
    model = with_scfg(sd15)
    assert torch.equal(run(model), run(model))


@pytest.mark.identity
def test_two_samplers_with_settings_of_their_own_do_not_know_of_each_other(sd15):
    soft, strong = dict(strength=0.3), dict(strength=2.0, completion="none", reference="whole image")
    alone = [run(with_scfg(sd15, **settings)) for settings in (soft, strong)]
    assert relative(*alone) > 1e-3
    one, other = with_scfg(sd15, **soft), with_scfg(sd15, **strong)
    for order in ((0, 1), (1, 0)):
        for index in order:
            assert torch.equal(run((one, other)[index]), alone[index])
    assert torch.equal(run(sd15), run(tiny.sd15()))  # the shared model is as new


@pytest.mark.identity
def test_a_later_nodes_clone_and_the_first_model_work_alike(sd15):
    model = with_scfg(sd15)
    assert torch.equal(run(model.clone()), run(model))


def test_the_time_range_is_respected(sd15):
    for settings, steps in (({"end_percent": 0.4}, [0, 1]), ({"start_percent": 0.4}, [2, 3])):
        model, record = with_regions(sd15, **settings)
        assert [step.step for step in record.of(run(model, steps=4)).steps] == steps


def test_a_latent_of_more_values_than_float32_can_count_has_a_mark():
    assert fingerprint(torch.ones(()).expand(2**24 + 4)).tolist() == [2**24 + 4] + [1.0] * VALUES


def test_every_run_of_a_list_of_seeds_is_found_by_its_latent(sd15):
    model, record = with_regions(sd15)
    latents = [run(model, seed=seed, steps=1) for seed in range(5)]
    found = [record.of(samples) for samples in latents]
    for samples, regions in zip(latents, found, strict=True):
        assert torch.equal(regions.fingerprint, fingerprint(samples))
        assert record.of(samples.half().float()) is regions  # as a pack may save it
    assert len({id(regions) for regions in found}) == 5


def test_an_inpainted_small_box_is_told_from_the_picture_around_it(sd15):
    """Two runs whose latents differ in 4 of 384 positions."""
    model, record = with_regions(sd15)
    first = run(model)
    box = torch.zeros(1, 1, *SIZE)
    box[..., 5:7, 9:11] = 1
    second = run(model, samples=first, noise_mask=box, denoise=0.3)
    assert 0 < (first != second).any(dim=1).sum() <= 4
    one, other = record.of(first), record.of(second)
    assert one is not other
    assert torch.equal(one.fingerprint, fingerprint(first)) and torch.equal(other.fingerprint, fingerprint(second))


def test_old_runs_make_room_by_their_bytes_and_the_newest_stays(monkeypatch, sd15):
    model, record = with_regions(sd15)
    latents = [run(model, seed=seed, steps=1) for seed in range(3)]
    monkeypatch.setattr(record_module, "KEPT_BYTES", 1)
    latents.append(run(model, seed=3, steps=1))
    assert record.of(latents[3]).steps
    for samples in latents[:3]:
        with pytest.raises(ValueError, match="not one that a sampler with this S-CFG node returned"):
            record.of(samples)


def keys_of(options: dict) -> set:
    return set(options) | set(options.get("transformer_options", {}))


def watched(monkeypatch, module, name: str) -> list:
    """Weak references to the runs of this class, as they start."""
    started = []

    class Watched(getattr(module, name)):
        def __init__(self, *args):
            super().__init__(*args)
            started.append(weakref.ref(self))

    monkeypatch.setattr(module, name, Watched)
    return started


def test_an_interrupt_leaves_nothing_behind_and_the_next_run_is_right(monkeypatch, sd15):
    started = watched(monkeypatch, scfg, "SCFGRun")
    expected = run(with_scfg(sd15))
    model, record = with_regions(sd15)
    before = keys_of(model.model_options)

    def interrupt(args):
        if len(started) == 2:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(probed(model, interrupt))
    assert keys_of(model.model_options) == before
    assert not any(name.startswith(runs.PREFIX) for name in before)
    gc.collect()
    assert [reference() for reference in started] == [None, None]
    with pytest.raises(ValueError, match="no regions were recorded"):
        record.of(expected)
    assert torch.equal(run(model), expected)


def test_an_error_in_the_model_leaves_the_guider_as_it_was(sd15):
    guider = comfy.samplers.CFGGuider(with_scfg(sd15))
    guider.set_conds(tiny.prompt(0), [[torch.zeros(1, 77, 3), {}]])  # of a text encoder that does not fit the model
    guider.set_cfg(5.0)
    options = guider.model_options
    sampler = comfy.samplers.sampler_object("euler")
    with pytest.raises(RuntimeError), torch.inference_mode():
        guider.sample(torch.ones(1, 4, *SIZE), tiny.latent(1, *SIZE), sampler, torch.tensor([9.0, 0.0]))
    assert guider.model_options is options
    assert not any(name.startswith(runs.PREFIX) for name in keys_of(options))


def sample_custom(guider, sigmas, seed: int = 7, sampler: str = "euler"):
    """SamplerCustomAdvanced."""
    noise = custom.RandomNoise.execute(seed).result[0]
    latent = {"samples": tiny.latent(1, *SIZE)}
    with torch.inference_mode():
        node = custom.SamplerCustomAdvanced.execute(
            noise, guider, comfy.samplers.sampler_object(sampler), sigmas, latent)
    return node.result[0]["samples"]


def schedule(model, steps: int = 2):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


def cfg_guider(model, cfg: float = 7.5):
    return custom.CFGGuider.execute(model, tiny.prompt(0), tiny.prompt(1), cfg).result[0]


def test_sampler_custom_advanced_is_ksampler(sd15):
    model = with_scfg(sd15)
    assert torch.equal(sample_custom(cfg_guider(model), schedule(model)), run(model))


@pytest.mark.identity
def test_a_cached_guider_samples_twice_alike(sd15):
    guider = cfg_guider(with_scfg(sd15))
    assert torch.equal(sample_custom(guider, schedule(sd15)), sample_custom(guider, schedule(sd15)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sigmas_of_another_precision_keep_both_ends_of_the_range(sd15, dtype):
    model, record = with_regions(sd15)
    samples = sample_custom(cfg_guider(model), schedule(sd15, 4).to(dtype))
    assert [step.step for step in record.of(samples).steps] == [0, 1, 2, 3]


def dual_guider(style: str):
    def make(model):
        positive, middle, negative = tiny.prompt(2), tiny.prompt(0), tiny.prompt(1)
        return custom.DualCFGGuider.execute(model, positive, middle, negative, 3.0, 5.0, style).result[0]
    return make


def perp_neg_guider(model):
    prompts = tiny.prompt(0), tiny.prompt(1), tiny.prompt(2)
    return perpneg.PerpNegGuider.execute(model, *prompts, 5.0, 0.7).result[0]


def dual_model_guider(model):
    return custom.DualModelGuider.execute(model, tiny.prompt(0), 5.0, model, tiny.prompt(1)).result[0]


OF_SEVERAL_PROMPTS = [
    (dual_guider("regular"), (0, 1)), (dual_guider("nested"), (2, 0)), (perp_neg_guider, (0, 1)),
    (dual_model_guider, (0, 1)),
]


def distance_from_cfg(model, guided, make, compared) -> float:
    """Of the first step's change of the prediction from that with plain CFG between the two prompts compared."""
    def change(make_guider):
        seen = []
        for one in (guided, model):
            guider = make_guider(probed(one, lambda args: seen.append((args["denoised"], args["cond_scale"]))))
            sample_custom(guider, schedule(model, 1))
        (changed, scale), (plain, _) = seen
        return changed - plain, scale

    effect, scale = change(make)
    positive, negative = (tiny.prompt(seed) for seed in compared)
    expected, _ = change(lambda model: custom.CFGGuider.execute(model, positive, negative, scale).result[0])
    assert expected.abs().max() > 1e-2
    return relative(effect, expected)


@pytest.mark.parametrize(("make", "compared"), OF_SEVERAL_PROMPTS)
def test_guiders_of_several_prompts_get_the_effect_of_the_two_they_compare(sd15, make, compared):
    assert distance_from_cfg(sd15, with_scfg(sd15), make, compared) < tiny.EXACT


@pytest.mark.parametrize("make", [dual_guider("regular"), dual_guider("nested"), perp_neg_guider])
def test_guiders_of_several_prompts_sample(sd15, make):
    model, record = with_regions(sd15)
    samples = sample_custom(make(model), schedule(sd15))
    assert samples.isfinite().all()
    assert relative(samples, sample_custom(make(sd15), schedule(sd15))) > 1e-3
    assert len(record.of(samples).steps) == 2


def lora_hook(model):
    """A LoRA on the attention of two blocks, in force for one prompt from the middle of the run on."""
    generator = torch.Generator().manual_seed(11)
    weights = {}
    for block in ("input_blocks_7_1", "output_blocks_4_1"):
        name = f"lora_unet_{block}_transformer_blocks_0_attn2_to_k"
        weights[f"{name}.lora_up.weight"] = torch.randn(128, 4, generator=generator) / 4
        weights[f"{name}.lora_down.weight"] = torch.randn(4, tiny.WIDTH, generator=generator) / 4
    hooks = comfy.hooks.create_hook_lora(weights, 1.0, 0.0)
    keyframes = hook_nodes.CreateHookKeyframe().create_hook_keyframe(0.0, 0.0)[0]
    keyframes = hook_nodes.CreateHookKeyframe().create_hook_keyframe(1.0, 0.4, keyframes)[0]
    hooks.set_keyframes_on_hooks(keyframes)
    return hooks


def test_a_lora_that_a_hook_schedules_on_one_prompt(sd15):
    """Hooked conds are evaluated in model calls of their own, with other weights."""
    positive = comfy.hooks.set_hooks_for_conditioning(tiny.prompt(0), lora_hook(sd15))
    model, record = with_regions(sd15)
    samples = run(model, positive=positive, steps=3)
    assert len(record.of(samples).steps) == 3
    plain = run(sd15, positive=positive, steps=3)
    assert relative(samples, plain) > 1e-3
    assert relative(run(sd15, steps=3), plain) > 1e-4  # the LoRA acts
    assert relative(run(sd15, positive=positive, steps=3), plain) == 0
    owners = [step.owner for step in record.of(samples).steps]
    without = [step.owner for step in with_record_of_plain_prompt(sd15).steps]
    assert torch.equal(owners[0], without[0])  # not yet in force
    assert not torch.equal(owners[2], without[2])


def with_record_of_plain_prompt(sd15):
    model, record = with_regions(sd15)
    return record.of(run(model, steps=3))
