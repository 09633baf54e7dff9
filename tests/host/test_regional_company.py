"""Regional Prompts beside other nodes: what they see, and what is refused."""

from __future__ import annotations

import comfy.hooks
import comfy.sample
import comfy_extras.nodes_context_windows as context_windows
import pytest
import torch
from host import company, test_company, test_conds, tiny, tiny_dit
from host.edits import overridden, with_edit
from host.regional_runs import LEFT, RIGHT, SIZE, in_regions, regional
from host.scfg_runs import relative, with_regions
from host.sega_runs import run
from host.test_scfg_families import noise, prompt

from semantic_guidance.attention_hooks.edits import Group
from semantic_guidance.sampling.bind import HOOK, Bound
from semantic_guidance.words.prompt import BOUND_KEY


def test_scfg_divides_the_base_prompt_alone(sd15):
    """With the base prompt's own text in the region, its regions are those of a run without."""
    model, record = with_regions(sd15, strength=0.0)
    alone = record.of(run(model))
    model, record = with_regions(in_regions(sd15, {"prompt": tiny.prompt(0)}), strength=0.0)
    beside = record.of(run(model))
    assert beside.regions == alone.regions
    for one, other in zip(beside.steps, alone.steps, strict=True):
        assert torch.equal(one.owner, other.owner) and relative(one.rates, other.rates) < 1e-4


def test_an_override_of_another_node_gets_all_calls_and_a_backend_without_masks_works(sd15):
    """As sage, which takes no mask and no large heads."""
    calls = []

    def sage(func, q, k, v, heads, *args, **kwargs):
        assert kwargs.get("mask") is None and not args
        calls.append(k.shape)
        return func(q, k, v, heads, **kwargs)

    expected = run(in_regions(sd15), steps=1)
    assert torch.equal(run(in_regions(overridden(sd15, sage)), steps=1), expected)
    assert len(calls) > 32
    later = in_regions(sd15)
    later.model_options["transformer_options"]["optimized_attention_override"] = sage
    assert torch.equal(run(later, steps=1), expected)


def test_an_image_adapter_in_some_layers_sees_the_base_prompt_alone(sd15, caplog):
    caplog.set_level("INFO")
    seen = []

    def adapter(q, k, v, options):
        seen.append(k.shape[1])
        return test_company.explicit_attention(q, k, v, options)

    model = sd15.clone()
    for block in (("input", 7), ("output", 4)):
        model.set_model_attn2_replace(adapter, *block)
    samples = run(in_regions(model))
    assert samples.isfinite().all() and set(seen) == {77}
    assert "acted in 14 of 16 layers" in caplog.text


@pytest.mark.parametrize("other", [
    lambda model: test_company.replaced(model, test_company.ALL_BLOCKS),
    lambda model: overridden(model, lambda func, q, *args, **kwargs: 3 * func(q, *args, **kwargs)),
])
def test_attention_that_leaves_no_layer_to_act_in_is_refused(sd15, other):
    with pytest.raises(ValueError, match="Regional Prompts: another node replaces or changes the attention of every"):
        run(in_regions(other(sd15)), steps=1)


def test_attention_couple_of_another_pack_is_refused_by_name(sd15):
    with pytest.raises(ValueError, match=r"Regional Prompts: another node changes .* the text \(AttentionCouple\)"):
        run(in_regions(company.AttentionCouple().patch(sd15, tiny.prompt(5))), steps=1)


def test_a_node_that_calls_the_model_in_tiles_is_refused(sd15):
    with pytest.raises(ValueError, match="Regional Prompts: the model was called for 8 x 8 of a latent of 8 x 16"):
        run(in_regions(company.in_tiles(sd15)), steps=1)


def test_an_area_of_the_base_prompt_has_its_part_of_the_regions(sd15):
    """Like a latent of the area's size with the masks cut to it."""
    base = test_conds.in_area(tiny.prompt(0), 8, 8, 0, 4)
    samples = regional(sd15, {"where": LEFT}, base=base).run(steps=1, cfg=1.0)
    noise = comfy.sample.prepare_noise(tiny.latent(1, *SIZE), 7)[..., 4:12]
    cut = regional(sd15, {"where": LEFT[..., 4:12]}).run(steps=1, cfg=1.0, size=(8, 8), noise=noise)
    assert relative(samples[..., 4:12], cut) < tiny.EXACT


def test_context_windows_over_a_batch_and_over_frames_have_their_own_masks(sd15):
    noises = torch.randn(4, 4, *SIZE, generator=torch.Generator().manual_seed(2))
    masks = torch.cat([LEFT, RIGHT, LEFT, RIGHT])
    expected = run(in_regions(sd15, {"where": masks}), batch=4, noise=noises, steps=1)
    windowed = run(in_regions(test_company.with_windows(sd15), {"where": masks}), batch=4, noise=noises, steps=1)
    assert relative(windowed, expected) < tiny.EXACT

    frames = torch.zeros(2, *noise("cosmos2").shape[-2:])
    frames[0, :, :2], frames[1, :, 4:] = 1, 1
    node = context_windows.ContextWindowsManualNode
    model = tiny_dit.model("cosmos2")
    window = node.execute(model, context_length=1, context_overlap=0, context_schedule="standard_static",
                          context_stride=1, closed_loop=False, fuse_method="flat", dim=2, freenoise=False,
                          causal_window_fix=False).result[0]

    def windowed(mask) -> torch.Tensor:
        patched = in_regions(window, {"prompt": prompt("cosmos2", 2), "where": mask})
        latents = noise("cosmos2")
        return tiny_dit.sample(patched, prompt("cosmos2"), prompt("cosmos2", 1), torch.zeros_like(latents),
                               noise=latents, cfg=1.0, steps=1)

    both = windowed(frames)
    for frame in range(2):
        assert relative(both[:, :, frame], windowed(frames[frame : frame + 1])[:, :, frame]) < 1e-4
        assert relative(both[:, :, frame], windowed(frames[1 - frame].unsqueeze(0))[:, :, frame]) > 1e-3


def test_bound_phrases_keep_to_the_base_prompt(sd15):
    text, values = tiny.prompt(0)[0][0], tiny.prompt(8)[0][0]
    bound = tiny.prompt(0, **{BOUND_KEY: Bound(text, values)})
    hooks = comfy.hooks.HookGroup()
    hooks.add(HOOK)
    bound = comfy.hooks.set_hooks_for_conditioning(bound, hooks)
    whole = regional(sd15, {"where": torch.ones(1, *SIZE)}, base=bound).run(cfg=1.0)
    assert relative(whole, run(sd15, positive=tiny.prompt(2), cfg=1.0)) < tiny.EXACT
    half, plain = (regional(sd15, {}, base=base).run(cfg=1.0) for base in (bound, tiny.prompt(0)))
    assert relative(half, plain) > 1e-3


def test_another_nodes_weights_act_where_the_base_prompt_does(sd15):
    """Two edits of one forward, in either order."""
    def weigh(model):
        return with_edit(model, groups=(Group((5, 6), 3.0),))[0]

    everywhere = torch.ones(1, *SIZE)
    whole = in_regions(sd15, {"where": everywhere})
    assert relative(run(weigh(whole), cfg=1.0), run(whole, cfg=1.0)) < tiny.EXACT
    one, other = run(weigh(in_regions(sd15)), cfg=1.0), run(in_regions(weigh(sd15)), cfg=1.0)
    assert relative(one, other) < tiny.EXACT
    assert relative(one, run(in_regions(sd15), cfg=1.0)) > 1e-4
