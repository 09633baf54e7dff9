"""S-CFG beside other nodes of the host and the tricks of other packs: all keep their effects."""

from __future__ import annotations

import comfy.hooks
import comfy.ldm.modules.attention as host_attention
import comfy.model_patcher
import comfy.samplers
import comfy_extras.nodes_context_windows as context_windows
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_hypertile as hypertile
import comfy_extras.nodes_model_advanced as model_advanced
import comfy_extras.nodes_model_downscale as model_downscale
import comfy_extras.nodes_nag as nag
import comfy_extras.nodes_pag as pag
import comfy_extras.nodes_sag as sag
import comfy_extras.nodes_tomesd as tomesd
import pytest
import torch
from host import company, tiny
from host.scfg_runs import SIZE, probed, relative, run, with_regions, with_scfg

OVERRIDE = "optimized_attention_override"
ALL_BLOCKS = [("input", n) for n in (1, 2, 4, 5, 7, 8)] + [("middle", 0)] + [("output", n) for n in range(3, 12)]


def first(node_output):
    return getattr(node_output, "result", node_output)[0]


def with_rescale(model):
    return model_advanced.RescaleCFG().patch(model, 0.7)[0]


def with_pag(model):
    return first(pag.PerturbedAttentionGuidance.execute(model, 2.0))


def with_sag(model):
    return first(sag.SelfAttentionGuidance.execute(model, 0.75, 1.0))


def with_nag(model):
    return first(nag.NAGuidance.execute(model, 5.0, 0.5, 1.5))


def with_tome(model):
    return first(tomesd.TomePatchModel.execute(model, 0.4))


def with_hypertile(model):
    return first(hypertile.HyperTile.execute(model, 64, 2, 0, False))


def with_deep_shrink(model):
    node = model_downscale.PatchModelAddDownscale
    return first(node.execute(model, 3, 2.0, 0.0, 1.0, True, "bicubic", "bicubic"))


def with_easycache(model):
    return first(easycache.EasyCacheNode.execute(model, 1e6, 0.0, 1.0, False))


def with_windows(model, dim: int = 0, **options):
    settings = dict(context_length=3, context_overlap=1, context_schedule="standard_static", context_stride=1,
                    closed_loop=False, fuse_method="pyramid", dim=dim, freenoise=False)
    return first(context_windows.ContextWindowsManualNode.execute(model, **{**settings, **options}))


def first_denoised(model) -> torch.Tensor:
    """The guided prediction of the first step, whose noisy latent is the same for all models."""
    seen = []
    run(probed(model, lambda args: seen.append(args["denoised"])), steps=1)
    return seen[0]


@pytest.mark.parametrize("other", [with_rescale, with_pag])
def test_effects_on_a_prediction_add_up_in_either_order(sd15, other):
    plain, ours, theirs = (first_denoised(m) for m in (sd15, with_scfg(sd15), other(sd15)))
    assert relative(ours, plain) > 1e-2
    assert relative(theirs, plain) > 1e-2
    for both in (other(with_scfg(sd15)), with_scfg(other(sd15))):
        assert relative(first_denoised(both) - plain, (ours - plain) + (theirs - plain)) < tiny.EXACT


NEIGHBOURS = [with_sag, with_nag, with_tome, with_hypertile, with_deep_shrink]


@pytest.mark.parametrize("other", NEIGHBOURS)
def test_guides_beside_nodes_that_change_the_model_in_either_order(sd15, other):
    def seeded(model):
        torch.manual_seed(0)  # ToMe and HyperTile draw from the global generator
        return run(model, steps=1)

    before, after = seeded(with_scfg(other(sd15))), seeded(other(with_scfg(sd15)))
    assert before.isfinite().all()
    assert relative(after, before) < tiny.EXACT
    assert relative(before, seeded(other(sd15))) > 1e-3
    assert relative(before, seeded(with_scfg(sd15))) > 1e-3


def test_steps_that_easycache_spares_use_the_last_regions(sd15, caplog):
    model, record = with_regions(with_easycache(sd15))
    samples = run(model, steps=5)
    owners = [step.owner for step in record.of(samples).steps]
    assert len(owners) == 5
    assert torch.equal(owners[4], owners[3])
    assert not torch.equal(owners[1], owners[0])
    assert relative(samples, run(with_easycache(sd15), steps=5)) > 1e-3
    assert "changes the attention" not in caplog.text


class CountingOverride:
    """Another pack's attention override, such as SageAttention nodes install."""

    def __init__(self):
        self.calls = 0

    def __call__(self, func, *args, **kwargs):
        self.calls += 1
        return func(*args, **kwargs)

    def on(self, model):
        model = model.clone()
        model.model_options["transformer_options"][OVERRIDE] = self
        return model


def test_an_override_of_another_node_sees_all_of_its_calls(sd15):
    expected = run(with_scfg(sd15))
    alone, before, after = CountingOverride(), CountingOverride(), CountingOverride()
    run(alone.on(sd15))
    assert alone.calls == 2 * 2 * 16  # steps, self and cross, transformer blocks
    assert torch.equal(run(with_scfg(before.on(sd15))), expected)
    assert torch.equal(run(after.on(with_scfg(sd15))), expected)
    assert before.calls == after.calls == alone.calls


def test_an_override_that_a_hook_brings_to_one_prompt_sees_its_calls(sd15):
    counting = CountingOverride()
    hooks = comfy.hooks.HookGroup()
    hooks.add(comfy.hooks.TransformerOptionsHook({OVERRIDE: counting}, comfy.hooks.EnumHookScope.HookedOnly))
    positive = comfy.hooks.set_hooks_for_conditioning(tiny.prompt(0), hooks)
    assert relative(run(with_scfg(sd15), positive=positive), run(with_scfg(sd15))) < tiny.EXACT
    assert counting.calls == 2 * 2 * 16


def explicit_attention(q, k, v, options):
    """What a node that replaces attention does; the same result as the host's."""
    return host_attention.attention_basic(q, k, v, options["n_heads"])


def replaced(model, blocks):
    model = model.clone()
    for block in blocks:
        model.set_model_attn2_replace(explicit_attention, *block)
    return model


def test_a_replaced_attention_on_some_blocks_leaves_the_others_and_is_told(sd15, caplog):
    model, record = with_regions(replaced(sd15, [("input", 7), ("middle", 0), ("output", 11)]))
    samples = run(model)
    assert len(record.of(samples).steps) == 2
    told = [r.getMessage() for r in caplog.records if "changes the attention of block" in r.getMessage()]
    assert [message.split("block ")[1].split(";")[0] for message in told] == ["input 7", "middle 0"]
    assert relative(samples, run(sd15)) > 1e-3


def test_a_replaced_attention_on_all_blocks_is_an_error_that_says_what_to_do(sd15):
    with pytest.raises(ValueError, match=r"S-CFG: another node replaces every .*input 7.*output 5.*Remove that node"):
        run(with_scfg(replaced(sd15, ALL_BLOCKS)))


def test_tokens_that_another_node_adds_to_a_block_are_not_taken_for_words(sd15, caplog):
    def add_image_tokens(n, context, value, options):
        if options["block"] == ("input", 8):
            extra = torch.ones_like(context[:, :4])
            context, value = torch.cat([context, extra], dim=1), torch.cat([value, extra], dim=1)
        return n, context, value

    patched = sd15.clone()
    patched.set_model_attn2_patch(add_image_tokens)
    samples = run(with_scfg(patched))
    assert "changes the attention of block input 8" in caplog.text
    assert relative(samples, run(patched)) > 1e-3


@pytest.mark.parametrize(("schedule", "causal"), [
    ("standard_static", False), ("standard_static", True), ("looped_uniform", True),
])
def test_context_windows_over_the_batch_change_nothing(sd15, schedule, causal):
    """Images of a batch do not see each other, so windows of it must give what the batch gives."""
    noise = torch.randn(4, 4, *SIZE, generator=torch.Generator().manual_seed(2))
    options = dict(causal_window_fix=causal, context_schedule=schedule, closed_loop=schedule == "looped_uniform")
    windowed = run(with_scfg(with_windows(sd15, **options)), batch=4, noise=noise, steps=1)
    assert relative(windowed, run(with_scfg(sd15), batch=4, noise=noise, steps=1)) < tiny.EXACT


def test_context_windows_over_a_part_of_the_picture_are_refused(sd15):
    with pytest.raises(ValueError, match=r"S-CFG: .*16 x 3.*16 x 24"):
        run(with_scfg(with_windows(sd15, dim=3)))


def test_context_windows_that_split_the_prompts_are_refused(sd15):
    model = with_scfg(with_windows(sd15, split_conds_to_windows=True))
    with pytest.raises(ValueError, match="split_conds_to_windows"):
        run(model, positive=tiny.prompt(0) + tiny.prompt(2), batch=4)


def test_a_node_that_calls_the_model_in_tiles_is_refused(sd15):
    with pytest.raises(ValueError, match=r"S-CFG: .*16 x 12.*16 x 24"):
        run(with_scfg(company.in_tiles(sd15)))


def test_a_node_that_copies_the_options_and_calls_the_model_itself_is_left_alone(sd15):
    """Extra passes of other packs: with copied options, with no uuids, and within the evaluation."""
    def extra_passes(args):
        options = comfy.model_patcher.create_model_options_clone(args["model_options"])
        x, sigma = args["input"], args["sigma"]
        text = args["cond"][0]["model_conds"]["c_crossattn"].cond
        args["model"].apply_model(x, sigma, c_crossattn=text, transformer_options=options["transformer_options"])
        comfy.samplers.calc_cond_batch(args["model"], [args["uncond"], args["cond"]], x / 2, sigma, options)
        return args["denoised"]

    model = sd15.clone()
    model.set_model_sampler_post_cfg_function(extra_passes)
    assert torch.equal(run(with_scfg(model)), run(with_scfg(sd15)))


def test_a_compiled_model_is_read_uncompiled(sd15, caplog):
    model, traced = company.compiled_without_guards(sd15)
    plain, expected = run(sd15), run(with_scfg(sd15))
    assert relative(run(model), plain) < tiny.EXACT
    compiled = len(traced)
    assert relative(run(with_scfg(model)), expected) < tiny.EXACT
    assert "runs uncompiled" in caplog.text
    caplog.clear()
    closed = with_scfg(model, start_percent=0.6, end_percent=0.5)
    assert relative(run(closed), plain) < tiny.EXACT
    again = torch.__version__ < "2.8"  # which knows no guard_filter_fn
    assert compiled > 0 and len(traced) == compiled + again
    assert "uncompiled" not in caplog.text
    torch.compiler.reset()


def test_two_in_series_both_act(sd15):
    plain = first_denoised(sd15)
    one, other = dict(strength=0.5), dict(completion="none", reference="whole image")
    effects = [first_denoised(with_scfg(sd15, **settings)) - plain for settings in (one, other)]
    both = first_denoised(with_scfg(with_scfg(sd15, **one), **other))
    assert relative(both - plain, effects[0] + effects[1]) < tiny.EXACT


class OtherGuider(comfy.samplers.CFGGuider):
    """A guider of another pack: both predictions, and guidance of its own between the prompts that it is told to."""

    compared = ("positive", "negative")

    def predict_noise(self, x, timestep, model_options, seed):
        conds = [self.conds["positive"], self.conds["negative"]]
        cond, uncond = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        positive, negative = (self.conds.get(name, []) for name in self.compared)
        return comfy.samplers.cfg_function(
            self.inner_model, cond, uncond, self.cfg, x, timestep, model_options, positive, negative
        )


@pytest.mark.parametrize(("settings", "message"), [
    ({"compared": ("positive", "none")}, "S-CFG: OtherGuider compares no negative prompt. Use KSampler"),
    ({"compared": ("none", "negative")}, "S-CFG: OtherGuider compares no positive prompt. Use KSampler"),
])
def test_a_guider_that_gives_nothing_to_compare_is_named(sd15, settings, message):
    guider = OtherGuider(with_scfg(sd15))
    guider.set_conds(tiny.prompt(0), tiny.prompt(1))
    guider.set_cfg(5.0)
    vars(guider).update(settings)
    euler = comfy.samplers.sampler_object("euler")
    with pytest.raises(ValueError, match=message), torch.inference_mode():
        guider.sample(torch.ones(1, 4, *SIZE), tiny.latent(1, *SIZE), euler, torch.tensor([9.0, 0.0]))


def test_guidance_that_another_node_has_taken_over_is_told(sd15, caplog):
    model, record = with_regions(sd15)
    model = model.clone()
    model.model_options["sampler_post_cfg_function"] = []
    assert torch.equal(run(model), run(sd15))
    assert "S-CFG: this node had no effect" in caplog.text


@pytest.mark.parametrize("windows", [[[0, 1], [1, 2]], None])
def test_windows_of_animatediff_evolved_are_read_and_what_they_are_not_is_refused(sd15, windows):
    """It calls the model for some images at a time, and says which in the options."""
    def by_windows(apply_model, args):
        options = args["c"]["transformer_options"]
        out, count = torch.zeros_like(args["input"]), torch.zeros(len(args["input"]), 1, 1, 1)
        for images in windows or [[0, 1], [1, 2]]:
            rows = [chunk * 3 + image for chunk in range(len(args["input"]) // 3) for image in images]
            own = {"ad_params": {"sub_idxs": images}} if windows else {}
            conds = {"c_crossattn": args["c"]["c_crossattn"][rows], "transformer_options": {**options, **own}}
            out[rows] += apply_model(args["input"][rows], args["timestep"][rows], **conds)
            count[rows] += 1
        return out / count

    noise = torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(2))
    model = sd15.clone()
    model.set_model_unet_function_wrapper(by_windows)
    if windows is None:
        with pytest.raises(ValueError, match=r"S-CFG: the model was called for 2 pictures where the batch has 3"):
            run(with_scfg(model), batch=3, noise=noise, steps=1)
        return
    assert relative(run(with_scfg(model), batch=3, noise=noise, steps=1),
                    run(with_scfg(sd15), batch=3, noise=noise, steps=1)) < tiny.EXACT
