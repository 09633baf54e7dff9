"""Edits of attention, on UNets and on transformers, against the host's own attention with a mask."""

from __future__ import annotations

import gc

import pytest
import torch
from host import edits, test_conds, tiny, tiny_dit
from host.edits import biased, logs, with_edit, with_told
from host.scfg_runs import SIZE, relative, run, with_regions

from semantic_guidance.attention_hooks.edits import ByOwner, Group, Part
from semantic_guidance.attention_hooks.probabilities import Attention

WORD, OTHER = (5, 6), (20,)
FORMS = [(2.0, 1.0), (0.0, 1.0), (0.4, 1.0), (2.5, 0.0)]


@pytest.mark.parametrize(("one", "two"), FORMS)
def test_constant_weights_on_a_unet_are_logarithms_on_the_scores(sd15, one, two):
    model, edit = with_edit(sd15, groups=(Group(WORD, one), Group(OTHER, two)))
    added = logs({5: one, 6: one, 20: two}, 77)
    expected = run(biased(sd15, lambda queries, keys: added.expand(queries, 77) if keys == 77 else None), cfg=1.0)
    samples = run(model, cfg=1.0)
    assert relative(samples, expected) < tiny.EXACT
    assert relative(samples, run(sd15, cfg=1.0)) > 1e-4
    assert len(edit.acted) == edit.layers == 16


def test_maps_and_owners_on_a_unet_reach_every_grid(sd15):
    map_ = torch.linspace(0.2, 3, SIZE[0] * SIZE[1]).reshape(1, *SIZE)
    owners = (map_ > 1).long()
    model, _ = with_edit(sd15, groups=(Group(WORD, map_), Group((6, 7), ByOwner(owners, (1.0, 0.25)))))

    def bias(queries, keys):
        if keys != 77:
            return None
        shrunk = round((SIZE[0] * SIZE[1] / queries) ** 0.5)
        on_grid = [torch.nn.functional.avg_pool2d(m[:, None].double(), shrunk).flatten()
                   for m in (map_, 1 - 0.75 * owners)]
        added = torch.zeros(queries, 77).double()
        added[:, WORD] += on_grid[0].log()[:, None]
        added[:, (6, 7)] += on_grid[1].log()[:, None]
        return added

    assert relative(run(model, cfg=1.0), run(biased(sd15, bias), cfg=1.0)) < 1e-5  # the maps are float32


@pytest.mark.identity
def test_the_negative_prompt_is_left_as_it_is_bit_for_bit(sd15):
    def uncond(model):
        seen = []
        model = model.clone()
        model.set_model_sampler_post_cfg_function(lambda args: seen.append(args["uncond_denoised"]) or args["denoised"])
        run(model, steps=1)
        return seen[0]

    for weight in (2.0, 0.0, 1.5, torch.full((1, *SIZE), 1.5)):
        model, edit = with_edit(sd15, groups=(Group(WORD, weight),))
        assert torch.equal(uncond(model), uncond(sd15))
        assert len({site.uuid for site in edit.sites}) == 1


def test_tokens_that_the_host_repeats_are_all_weighed(monkeypatch, sd15):
    model, edit = with_edit(sd15, groups=(Group(WORD, 2.0),))
    options = dict(positive=tiny.prompt(0), negative=tiny.prompt(1, 154))
    joint = run(model, **options)
    assert relative(run(test_conds.separately(monkeypatch, model), **options), joint) < tiny.EXACT
    assert relative(run(sd15, **options), joint) > 1e-4
    assert len(edit.acted) == 16


def test_edits_of_two_nodes_multiply_in_one_computation_and_observers_see_the_model_as_it_is(sd15):
    def once(model):
        return run(model, steps=1)

    first, _ = with_edit(sd15, groups=(Group(WORD, 2.0),))
    both, _ = with_edit(first, groups=(Group((6, 7), 2.0),))
    product, _ = with_edit(sd15, groups=(Group((5,), 2.0), Group((6,), 4.0), Group((7,), 2.0)))
    assert relative(once(both), once(product)) < tiny.EXACT
    ours_first, ours_last = with_regions(first), with_regions(sd15)
    ours_last = with_edit(ours_last[0], groups=(Group(WORD, 2.0),))[0], ours_last[1]
    owners = [record.of(once(model)).steps[0].owner for model, record in (ours_first, ours_last)]
    assert torch.equal(*owners)


def test_what_is_no_average_of_values_is_left_alone_and_named(sd15, caplog):
    def doubled(func, q, k, v, heads, *args, **kwargs):
        out = func(q, k, v, heads, *args, **kwargs)
        return 2 * out if kwargs["transformer_options"]["block"] == ("middle", 0) else out

    model, edit = with_edit(edits.overridden(sd15, doubled), groups=(Group(WORD, 1.5),))
    run(model, cfg=1.0)
    assert caplog.text.count("in block middle 0 is no average of values") == 1
    assert len(edit.acted) == 15


def test_a_backend_that_takes_no_mask_and_no_large_head(sd15):
    def sage(func, q, k, v, heads, *args, **kwargs):
        assert kwargs.get("mask") is None and not args
        assert q.shape[-1] // (1 if kwargs.get("skip_reshape") else heads) <= 128
        return func(q, k, v, heads, *args, **kwargs)

    for weight in (2.0, 0.0, 1.5, torch.full((1, *SIZE), 1.5)):
        plain, _ = with_edit(sd15, groups=(Group(WORD, weight),))
        model, _ = with_edit(edits.overridden(sd15, sage), groups=(Group(WORD, weight),))
        assert torch.equal(run(model), run(plain))


def test_parts_of_a_unet_see_their_own_text(sd15):
    left = torch.zeros(1, *SIZE)
    left[..., :8] = 1
    left[..., 8:12] = 0.5
    one, two = tuple(range(40)), tuple(range(40, 77))
    model, _ = with_edit(sd15, parts=(Part(one, left), Part(two, 1 - left)), groups=(Group((5, 50), 2.0),))

    def blended(func, q, k, v, heads, *args, **kwargs):
        if k.shape[1] != 77:
            return func(q, k, v, heads, *args, **kwargs)
        shrunk = round((SIZE[0] * SIZE[1] / q.shape[1]) ** 0.5)
        share = torch.nn.functional.avg_pool2d(left[:, None], shrunk).flatten()[None, :, None].double()
        keys = [[*range(40), 5], [*range(40, 77), 50]]
        return sum(s * func(q, k[:, own], v[:, own], heads) for s, own in zip((share, 1 - share), keys, strict=True))

    assert relative(run(model, cfg=1.0), run(edits.overridden(sd15, blended), cfg=1.0)) < tiny.EXACT


# --- transformers

JOINT = {"flux": 0, "qwen": 0, "lens": 15, "zimage": 0, "sd3": 0, "krea2": 0, "hidream": 15, "omnigen2": 0}  # text at
CROSS = ["wan", "anima", "cosmos2", "ltxv", "kandinsky5", "wan_i2v"]
WORDS = (3, 4)


def sampled(name, model, **kwargs):
    return tiny_dit.sample(model, tiny_dit.prompt(name), tiny_dit.prompt(name, 1), tiny_dit.latent(name), steps=1,
                           **{"cfg": 1.0, **kwargs})


def image_rows(name, queries, keys):
    """Where text and picture lie in a joint call; None for another call."""
    places, tokens = 15, tiny_dit.TOKENS
    padded = {"zimage": (32, 64)}.get(name, (tokens, tokens + places))
    if name == "hidream":
        return (slice(15, 24), slice(0, 15)) if queries == keys >= 15 + tokens + 5 else None
    if queries != keys or queries != padded[1]:
        return None
    start = JOINT[name]
    return (slice(start, start + tokens), slice(padded[0], padded[0] + places) if not start else slice(0, places))


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("weight", [2.0, 0.0, 0.4])
def test_joint_attention_is_weighed_for_the_pictures_queries_alone(name, weight):
    model, edit = with_edit(tiny_dit.model(name), groups=(Group(WORDS, weight),))

    def bias(queries, keys):
        placed = image_rows(name, queries, keys)
        if placed is None:
            return None
        text, image = placed
        added = torch.zeros(queries, keys)
        added[image, text] = logs(dict.fromkeys(WORDS, weight), tiny_dit.TOKENS)
        return added

    samples = sampled(name, model)
    assert relative(samples, sampled(name, biased(tiny_dit.model(name), bias))) < 1e-5
    assert relative(samples, sampled(name, tiny_dit.model(name))) > 1e-5
    assert len(edit.acted) == edit.layers


@pytest.mark.parametrize("name", CROSS)
@pytest.mark.parametrize("weight", [2.0, 0.0, 0.4, "map"])
def test_cross_attention_of_transformers(name, weight):
    value = torch.full((1, 10, 6), 1.7) if weight == "map" else weight
    model, edit = with_edit(tiny_dit.model(name), groups=(Group(WORDS, value),))
    length = {}

    def note(site):
        length["text"] = edit.lengths[site.uuid]
        return {"groups": (Group(WORDS, value),)}

    edit.told = note
    samples = sampled(name, model)
    added = logs(dict.fromkeys(WORDS, 1.7 if weight == "map" else weight), length["text"])

    def bias(queries, keys):
        return added.expand(queries, keys) if keys == length["text"] and queries != keys else None

    assert relative(samples, sampled(name, biased(tiny_dit.model(name), bias))) < 1e-5
    assert relative(samples, sampled(name, tiny_dit.model(name))) > 1e-6
    assert len(edit.acted) == edit.layers


@pytest.mark.parametrize("name", ["flux", "qwen", "zimage"])
def test_owners_of_joint_attention_are_rows_apart_image_by_image(name):
    owners = torch.randint(3, (2, 5, 3), generator=torch.Generator().manual_seed(1))
    weights = ((1.0, 0.0, 2.0), (3.0, 0.5, 1.0))
    groups = (Group((3,), ByOwner(owners, weights[0])), Group(WORDS, ByOwner(owners, weights[1])))
    model, _ = with_edit(tiny_dit.model(name), groups=groups)
    noise = torch.randn(tiny_dit.latent(name, 2).shape, generator=torch.Generator().manual_seed(2))

    def both(model):
        return tiny_dit.sample(model, tiny_dit.prompt(name), tiny_dit.prompt(name, 1), tiny_dit.latent(name, 2),
                               cfg=1.0, steps=1, noise=noise)

    def bias(queries, keys):
        placed = image_rows(name, queries, keys)
        if placed is None:
            return None
        text, image = placed
        added = torch.zeros(2, queries, keys)
        first, second = (torch.tensor(each)[owners.flatten(1)].log() for each in weights)
        added[:, image, text.start + 3] += first + second
        added[:, image, text.start + 4] += second
        return added

    assert relative(both(model), both(biased(tiny_dit.model(name), bias))) < 1e-5


@pytest.mark.parametrize("name", ["flux", "lens"])
def test_parts_of_joint_attention_divide_text_and_picture(name):
    left = torch.zeros(1, 5, 3)
    left[..., 0] = 1
    left[..., 1] = 0.5
    base, region = (0, 1, 2, 3, 4), (5, 6, 7, 8)
    parts = (Part(base, 1 - left, base), Part((*base, *region), left), Part(region, None, region, left > 0))
    model, _ = with_edit(tiny_dit.model(name), parts=parts)

    def divided(func, q, k, v, heads, *args, **kwargs):
        placed = image_rows(name, q.shape[2], k.shape[2])
        if placed is None:
            return func(q, k, v, heads, *args, **kwargs)
        text, image = placed
        width = q.shape[-1]
        share = left.flatten().to(q)
        outs = []
        for kind in range(2):  # hard parts of a soft edge, blended
            allowed = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
            allowed[:, [text.start + c for c in region]] = False
            if kind:
                allowed[image] = True
            rows = [text.start + c for c in region]
            allowed[rows] = False
            for row in rows:
                allowed[row, rows] = True
                allowed[row, image] = left.flatten() > 0
            mask = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)
            outs.append(func(q, k, v, heads, **{**kwargs, "mask": mask[None, None]}))
        blend = torch.zeros(q.shape[2])
        blend[image] = share
        blend = blend[None, :, None] if outs[0].ndim == 3 else blend[None, None, :, None]
        assert outs[0].shape[-1] in (width, heads * width)
        return (1 - blend) * outs[0] + blend * outs[1]

    samples = sampled(name, model)
    assert relative(samples, sampled(name, edits.overridden(tiny_dit.model(name), divided))) < 1e-5
    assert relative(samples, sampled(name, tiny_dit.model(name))) > 1e-5


@pytest.mark.identity
def test_nothing_told_is_the_host_alone(sd15):
    assert torch.equal(run(with_told(sd15, lambda site: None)[0]), run(sd15))
    for name in ("flux", "wan"):
        model, _ = with_told(tiny_dit.model(name), lambda site: None)
        assert torch.equal(sampled(name, model), sampled(name, tiny_dit.model(name)))


@pytest.mark.parametrize("name", ["sd3", "wan"])
def test_no_queries_outlive_a_forward(name):
    """A reference cycle would hold a layer's queries and keys until Python next looks for cycles."""
    model, edit = with_edit(tiny_dit.model(name), groups=(Group((1,), 2.0),))
    gc.collect()
    gc.disable()
    try:
        latent = torch.zeros_like(tiny_dit.latent(name))
        tiny_dit.sample(model, tiny_dit.prompt(name, 0), tiny_dit.prompt(name, 1), latent, steps=1, cfg=2.0)
        assert edit.acted and not [held for held in gc.get_objects() if type(held) is Attention]
    finally:
        gc.enable()
