"""Regional Prompts on a tiny model of every transformer family, against the host's own attention with a dense mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from host import regional_runs, test_scfg_families, tiny_dit
from host.edits import biased
from host.regional_runs import Regional
from host.scfg_runs import relative
from host.test_scfg_families import noise, prompt

from semantic_guidance.attention_hooks import weigh
from semantic_guidance.attention_hooks.families import every_layer, model_family
from semantic_guidance.attention_hooks.observe import Call

NAMES = [name for name in test_scfg_families.NAMES if name != "hidream"]
EXACT = 5e-4  # in float32, in which the host computes these families
FRONT = 512  # to which Flux 2 pads every prompt, in front
UNMASKED = {
    "anima",  # makes its text of token ids, which cannot be joined in a conditioning
    "pixeldit", "pid",  # take 16 tokens
    "wan_vace",  # what joins the control to a block reads the base prompt alone
    "wan_scail",  # without the picture that a real run has, it attends to the text twice
}


def third(name: str, number: int) -> torch.Tensor:
    """A mask of a column of the model's grid, which has three."""
    height, width = noise(name).shape[-2:]
    mask = torch.zeros(1, height, width)
    mask[..., number * width // 3 : (number + 1) * width // 3] = 1
    return mask


def regional(name: str, *settings: dict, **options) -> Regional:
    settings = settings or ({"where": third(name, 0)}, {"where": third(name, 2)})
    settings = tuple({"prompt": prompt(name, 2 + number), **item} for number, item in enumerate(settings))
    return regional_runs.regional(tiny_dit.model(name), *settings, base=prompt(name), **options)


def run(name: str, made: Regional | None = None, **options) -> torch.Tensor:
    if made is None:
        return test_scfg_families.run(tiny_dit.model(name), name, **options)
    return test_scfg_families.run(made.model, name, positive=made.positive, **options)


def joined(name: str) -> list:
    """The base prompt and those of two regions as one text."""
    texts = [prompt(name, seed)[0][0] for seed in (0, 2, 3)]
    if name.startswith("flux2"):
        texts = [F.pad(text, (0, 0, FRONT - text.shape[1], 0)) for text in texts]
    (_, extra), = prompt(name)
    mask = {key: extra[key].repeat(1, 3) for key in ("attention_mask",) if key in extra}
    return [[torch.cat(texts, dim=1), {**extra, **mask}]]


def dense(name: str, isolate: bool):
    """bias(queries, keys): what each position may see, with region 1 in the grid's first column and 2 in its last."""
    model = tiny_dit.model(name)
    family, layer = model_family(model, "test"), every_layer(model, "test")[0]
    text = joined(name)[0][0].shape[1]
    owner = torch.zeros(layer.grid(tuple(noise(name).shape[2:])))
    owner[..., 0], owner[..., 2] = 1, 2
    owner = owner.flatten()
    of_text = torch.arange(3).repeat_interleave(text // 3)

    def bias(queries: int, keys: int):
        if family.kind == "cross":
            if keys != text or queries == text:
                return None if queries != text or keys != text else logs(of_text[:, None] == of_text)
            rows = torch.zeros(queries)
            place = family.sequence.place(call, layer, queries)
            rows[place.image] = owner
            return logs(rows[:, None] == of_text)
        if queries != keys:
            return None
        if text <= keys < text + family.sequence.pad:  # the text alone, and what pads it
            kinds = F.pad(of_text, (0, keys - text))
            return logs(kinds[:, None] == kinds)
        place = family.sequence.place(call, layer, keys)
        if place is None:
            return None
        kind = torch.zeros(keys)  # of what is neither text nor picture: as the base text
        of_region = torch.zeros(keys)
        kind[place.text] = of_text.float()
        of_region[place.text] = of_text.float()
        of_region[place.image] = owner
        is_text, is_image = torch.zeros(keys).bool(), torch.zeros(keys).bool()
        is_text[place.text] = True
        is_image[place.image] = True
        sees = torch.ones(keys, keys, dtype=torch.bool)
        sees[:, is_text] = of_region[:, None] == kind[is_text]  # every position sees its own prompt
        own = is_text & (kind > 0)
        other = ~is_text & ~is_image
        sees[own] = (of_region[own][:, None] == of_region) | other  # a region's text sees itself and its place
        if isolate:
            inside = is_image & (of_region > 0)
            sees[inside] &= ~is_image | (of_region == 0) | (of_region[inside][:, None] == of_region)
        return logs(sees)

    def logs(sees: torch.Tensor) -> torch.Tensor:
        return torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)

    call = Call(1, tuple(noise(name).shape[2:]), text, {})

    def with_extra(x_text_extra: dict) -> None:
        nonlocal call
        call = call._replace(extra=x_text_extra)

    return bias, with_extra


def expected(name: str, isolate: bool = False) -> torch.Tensor:
    bias, with_extra = dense(name, isolate)
    model = biased(tiny_dit.model(name), bias)

    def apply_model(executor, x, t, c_concat, c_crossattn, control, options, *args, **kwargs):
        with_extra(kwargs)
        return executor(x, t, c_concat, c_crossattn, control, options, *args, **kwargs)

    model.add_wrapper_with_key("apply_model", "test", apply_model)
    return test_scfg_families.run(model, name, positive=joined(name), cfg=1.0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNMASKED])
def test_equals_a_dense_mask_in_every_family(name, caplog):
    caplog.set_level("INFO")
    made = regional(name)
    samples = run(name, made, cfg=1.0)
    assert relative(samples, expected(name)) < EXACT
    assert relative(samples, run(name, cfg=1.0)) > 1e-3
    layers = len(every_layer(tiny_dit.model(name), "test"))
    assert f"acted in {layers} of {layers} layers, steps 1-2." in caplog.text
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert all("cells" in message or "reference images" in message for message in told)
    assert any("reference images see the base prompt" in message for message in told) == (
        name in ("flux_ref", "qwen_ref", "omnigen2_ref")
    )


@pytest.mark.parametrize("name", ["flux", "zimage", "qwen"])
def test_isolated_regions_do_not_see_each_other(name):
    apart = run(name, regional(name, isolate=1.0, isolate_until=1.0), cfg=1.0)
    assert relative(apart, expected(name, isolate=True)) < EXACT
    assert relative(apart, run(name, regional(name), cfg=1.0)) > 1e-3
    assert torch.equal(run(name, regional(name, isolate=0.0), cfg=1.0), run(name, regional(name), cfg=1.0))


@pytest.mark.identity
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("pixeldit", "pid")])
def test_a_closed_range_is_the_hosts_alone_and_the_negative_stays_it(name):
    closed = regional(name, start_percent=0.6, end_percent=0.5)
    assert torch.equal(run(name, closed), run(name))
    seen = [
        test_scfg_families.first_step(made.model if made else tiny_dit.model(name), name,
                                      positive=made.positive if made else None)
        for made in (regional(name), None)
    ]
    assert relative(seen[0]["uncond_denoised"], seen[1]["uncond_denoised"]) < EXACT
    assert not torch.equal(seen[0]["cond_denoised"], seen[1]["cond_denoised"])


@pytest.mark.parametrize("name", ["anima", "wan", "cosmos2", "ltxv"])
def test_a_region_that_covers_everything_is_its_prompt_alone_with_cross_attention(name):
    whole = torch.ones(1, *noise(name).shape[-2:])
    samples = run(name, regional(name, {"where": whole}), cfg=1.0)
    assert relative(samples, run(name, positive=prompt(name, 2), cfg=1.0)) < EXACT


@pytest.mark.parametrize("name", ["flux", "zimage", "qwen", "wan", "cogvideo"])
def test_a_batch_is_its_singles_and_soft_edges_negatives_words_and_snapping_act(name):
    soft = torch.linspace(0, 1, noise(name).shape[-1]).expand(1, *noise(name).shape[-2:])
    settings = [
        {"where": soft, "strength": 0.8, "negative": prompt(name, 9)}, {"where": third(name, 2), "words": "cat"},
    ]
    made = regional(name, *settings, snap="free")
    latents = noise(name, 2)
    both = run(name, made, noise=latents, steps=3)
    assert both.isfinite().all() and torch.equal(run(name, made, noise=latents, steps=3), both)
    for image in range(2):
        alone = run(name, made, noise=latents[image : image + 1], steps=3)
        assert relative(both[image : image + 1], alone) < EXACT
    without = regional(name, {**settings[0], "negative": None}, settings[1], snap="free")
    assert relative(run(name, without, noise=latents, steps=3), both) > 1e-4


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_in_small_blocks_of_queries_the_result_is_the_same(monkeypatch, name):
    soft = torch.linspace(0, 1, noise(name).shape[-1]).expand(1, *noise(name).shape[-2:])
    made = regional(name, {"where": soft})
    expected_samples = run(name, made, cfg=1.0, steps=1)
    monkeypatch.setattr(weigh, "MEMORY", 4 * 64 * 4 * 4)
    assert relative(run(name, made, cfg=1.0, steps=1), expected_samples) < EXACT


def test_hidream_whose_text_comes_in_parts_is_refused_by_name():
    with pytest.raises(ValueError, match="Regional Prompts: HiDream reads its prompt in parts"):
        regional("hidream")


def test_more_text_than_a_model_takes_is_refused():
    with pytest.raises(ValueError, match="Regional Prompts: PixelDiT takes 16 tokens of text, and these prompts have"):
        run("pixeldit", regional("pixeldit"), cfg=1.0)
