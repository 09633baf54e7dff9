"""Every row of the table of transformer families, on tiny models of the host's own classes."""

from __future__ import annotations

import pytest
import torch
from host import tiny_dit
from host.seen_layers import Seen, explicit, first_noise, look, watched
from host.tiny_dit import TOKENS

from semantic_guidance.attention_hooks.families import FAMILIES, layers_at, model_family, model_layers
from semantic_guidance.attention_hooks.layouts import Layer

NAMES = [*tiny_dit.MODELS, *tiny_dit.VARIANTS]
BOTH = [torch.float32, torch.bfloat16]
REFERENCE = 4  # positions of a picture of 4 x 4

# Counted by hand: the first of the text's tokens and of the picture's positions in a call of joint attention.
JOINT = {
    "sd3": (0, TOKENS), "sd35m": (0, TOKENS), "aura": (8, 8 + TOKENS), "flux": (0, TOKENS), "flux_ref": (0, TOKENS),
    "flux2": (0, 512), "longcat": (0, TOKENS), "chroma": (0, TOKENS), "radiance": (0, TOKENS), "qwen": (0, TOKENS),
    "qwen_ref": (0, TOKENS), "mageflow": (0, TOKENS), "krea2": (0, TOKENS), "lumina": (0, TOKENS),
    "zimage": (0, 32), "zimage_pixel": (0, 32), "hunyuan_video": (0, TOKENS), "hunyuan_ref": (0, TOKENS + 15),
    "hunyuan_i2v": (0, TOKENS), "hunyuan_skyreels": (0, TOKENS), "hunyuan15": (4 + 3, 4 + 3 + TOKENS),
    "hunyuan15_sr": (4 + 3, 4 + 3 + TOKENS), "hunyuan_refiner": (0, TOKENS), "hunyuan_image21": (0, TOKENS + 3),
    "omnigen2": (0, TOKENS), "omnigen2_ref": (0, TOKENS + REFERENCE), "boogu": (0, TOKENS),
    "ideogram4": (0, TOKENS), "cogvideo": (0, TOKENS), "cogvideo15": (0, TOKENS), "pixeldit": (0, TOKENS),
    "pid": (0, TOKENS), "hidream": (15, 0), "lens": (15, 0), "joyimage": (15, 0),
    "joyimage_ref": (15 + REFERENCE, 0), "mageflow_ref": (0, TOKENS), "krea2_ref": (0, TOKENS),
    "flux2_ref": (0, 512), "boogu_ref": (0, TOKENS + REFERENCE),
}
# The picture's first position in self-attention, where it is not 0.
AFTER = {"wan_ref": 15, "wan_scail": 15, "wan_scail2": 15}
LENGTH = {"flux2": 512, "flux2_ref": 512, "anima": 512}  # of a text that the model makes longer
MOVED = {"flux2": 512 - TOKENS, "flux2_ref": 512 - TOKENS}
# Layers in front of those that are seen let each token (or position) know of all others.
MIXED_TEXT = {"hunyuan_video", "hunyuan_i2v", "hunyuan_skyreels", "hunyuan_ref", "hunyuan15", "hunyuan15_sr",
              "hunyuan_image21", "hunyuan_refiner", "lumina", "zimage", "zimage_pixel", "omnigen2", "omnigen2_ref",
              "boogu", "boogu_ref", "krea2", "krea2_ref", "kandinsky5", "kandinsky5_image", "anima"}
# The host cannot sample the first on sizes that its patches do not divide; the prompts of the others have one size.
WHOLE_PATCHES = {"hunyuan_video", "hunyuan_i2v", "hunyuan_skyreels", "hunyuan_ref", "cosmos1", "kandinsky5",
                 "kandinsky5_image", "wan_vace", "wan_ref", "wan_context", "wan_scail", "wan_scail2", "wan_camera",
                 "wan_animate"}
MASKED = ["qwen", "qwen_ref", "mageflow", "hunyuan_video", "hunyuan_ref", "ideogram4", "lens", "ltxv"]
MIXED_IMAGE = {"lumina", "zimage", "zimage_pixel", "omnigen2", "omnigen2_ref", "boogu", "boogu_ref"}


def image_slice(name: str, seen: Seen) -> slice:
    frames, height, width = seen.observations[0].grid
    first = JOINT[name][1] if name in JOINT else AFTER.get(name, 0)
    return slice(first, first + frames * height * width)


def two_prompts(name: str, joined: bool) -> list:
    """With prompts of one length the host calls the model once, else twice."""
    return [tiny_dit.prompt(name, 0), tiny_dit.prompt(name, 1, tokens=None if joined else TOKENS - 2)]


def test_every_transformer_of_the_table_has_a_tiny_model():
    built = {type(tiny_dit.model(name).model).__name__ for name in NAMES}
    assert built == {name for family in FAMILIES if family.kind != "unet" for name in family.classes}


@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize("joined", [True, False], ids=["joined", "split"])
@pytest.mark.parametrize("name", NAMES)
def test_watching_changes_no_bit_of_the_output(name, joined, dtype):
    model, samples, seen = tiny_dit.model(name, dtype), tiny_dit.latent(name), []
    joined = joined and name not in tiny_dit.UNJOINED
    prompts = two_prompts(name, joined)
    expected = tiny_dit.sample(model, *prompts, samples)
    assert expected.isfinite().all()
    assert torch.equal(tiny_dit.sample(watched(model, seen), *prompts, samples), expected)
    layers = model_layers(model, "test")
    calls = 1 if joined or LENGTH.get(name) else 2
    assert len(seen) == 3 * calls
    for call in seen:
        assert [observation.layer for observation in call.observations] == layers
        assert all(len(o.self_attention.q) == len(o.cross_attention.q) == len(call.uuids) for o in call.observations)
        assert len(call.uuids) == 2 // calls


@pytest.mark.parametrize("name", NAMES)
def test_the_tiny_model_follows_its_prompt(name):
    model, samples, other = tiny_dit.model(name), tiny_dit.latent(name), tiny_dit.prompt(name, 1)
    first, second = (tiny_dit.sample(model, tiny_dit.prompt(name, seed), other, samples, cfg=1.0) for seed in (0, 2))
    assert (first - second).abs().max() > 1e-4


def changed(one: torch.Tensor, other: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """The positions of [B, heads, positions, d] that differ, and by how much each does."""
    difference = (one - other).abs().amax((0, 1, 3))
    return difference.gt(1e-5 * difference.max()).nonzero().flatten().tolist(), difference


@pytest.mark.parametrize("name", NAMES)
def test_one_token_moves_its_column_alone(name):
    token = 4
    positive = tiny_dit.prompt(name)
    moved = [[positive[0][0].clone(), dict(positive[0][1])]]
    if name == "anima":
        moved[0][1]["t5xxl_ids"] = positive[0][1]["t5xxl_ids"].clone()
        moved[0][1]["t5xxl_ids"][token] = 12345
    else:
        moved[0][0][:, token] = tiny_dit.noise(77, 1, moved[0][0].shape[-1])
    one, other = (look(name, prompt).observations[0].cross_attention.k for prompt in (positive, moved))
    assert one.shape[2] == LENGTH.get(name, TOKENS)
    columns, difference = changed(one, other)
    column = token + MOVED.get(name, 0)
    assert difference.argmax() == column
    if name not in MIXED_TEXT:
        assert columns == [column]


@pytest.mark.parametrize("name", NAMES)
def test_one_pixel_moves_its_rows_alone(name):
    noise = first_noise(tiny_dit.latent(name))
    seen = look(name, noise=noise)
    grid = seen.observations[0].grid
    cell = noise.shape[-1] // grid[2]  # the latent's, to each of the grid
    row, column = 3, 1
    moved = noise.clone()
    moved[..., row * cell, column * cell] += 3
    one, other = (call.observations[0] for call in (seen, look(name, noise=moved)))
    expected = [frame * grid[1] * grid[2] + row * grid[2] + column for frame in range(grid[0])]
    for attention in ("self_attention", "cross_attention"):
        rows, difference = changed(getattr(one, attention).q, getattr(other, attention).q)
        assert len(difference) == grid[0] * grid[1] * grid[2]
        assert sorted(difference.topk(len(expected)).indices.tolist()) == expected
        if name not in MIXED_IMAGE and attention == "self_attention":
            assert rows == expected


@pytest.mark.parametrize(
    ("name", "masked"), [*[(name, False) for name in NAMES], *[(name, True) for name in MASKED]]
)
def test_maps_are_those_of_the_explicit_softmax(name, masked):
    mask = torch.ones(1, TOKENS, dtype=torch.long)
    mask[:, TOKENS - 2 :] = 0
    seen = look(name, tiny_dit.prompt(name, 0, **({"attention_mask": mask} if masked else {})))
    assert all(masked == (seen.raw[at].get("mask") is not None) for at in seen.shown_at) or name in ("ltxv", "lens")
    picture = image_slice(name, seen)
    for observation, at in zip(seen.observations, seen.shown_at, strict=True):
        call = seen.raw[at]
        if name in JOINT:
            own, text = call, slice(JOINT[name][0], JOINT[name][0] + LENGTH.get(name, TOKENS))
        else:
            lengths = [raw["q"].shape[-2] == raw["k"].shape[-2] for raw in seen.raw[:at]]
            own, text = seen.raw[max(n for n, alike in enumerate(lengths) if alike)], slice(None)
        for expected, attention in (
            (explicit(own, picture, picture), observation.self_attention),
            (explicit(call, picture, text), observation.cross_attention),
        ):
            found = attention.probabilities()
            assert found.shape == expected.shape
            assert (found - expected).abs().max() < 1e-5
            assert found.std(-1).mean() > 1e-6


def halved(previous):
    def override(func, *args, **kwargs):
        return 0.5 * previous(func, *args, **kwargs)

    return override


def doubled(func, *args, **kwargs):
    return 2 * func(*args, **kwargs)


@pytest.mark.parametrize("name", ["sd3", "flux", "hidream", "wan", "ltxv"])
def test_overrides_of_other_nodes_before_and_after(name):
    seen, samples, prompts = [], tiny_dit.latent(name), two_prompts(name, True)

    def quadrupled(func, *args, **kwargs):
        return 0.5 * doubled(func, *args, **kwargs)

    other = tiny_dit.model(name).clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = quadrupled
    expected = tiny_dit.sample(other, *prompts, samples, steps=1)
    model = watched(tiny_dit.model(name), seen, before=halved, after=doubled)
    assert torch.equal(tiny_dit.sample(model, *prompts, samples, steps=1), expected)
    assert [o.layer for o in seen[0].observations] == model_layers(model, "test")


BLOCKS = {
    "sd3": ["joint_blocks"], "sd35m": ["joint_blocks"], "aura": ["double_layers", "single_layers"],
    "ltxv": ["transformer_blocks"], "chroma": ["double_blocks", "single_blocks"], "wan": ["blocks"],
}


def skip(args, extra):
    return {name: args[name] for name in ("img", "txt") if name in args}


def through(args, extra):
    return extra["original_block"](args)


def twice(args, extra):
    extra["original_block"](args)
    return extra["original_block"](args)


@pytest.mark.parametrize("replacement", [None, skip, through, twice])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_that_another_node_replaces_keep_their_places(name, replacement):
    model = tiny_dit.model(name)
    transformer = model.model.diffusion_model
    blocks = [block for stack in BLOCKS[name] for block in getattr(transformer, stack)]
    running: list[int] = []  # the block at work
    at_calls: list[int | None] = []  # of each call of attention
    hooks = [
        hook for number, block in enumerate(blocks) for hook in (
            block.register_forward_pre_hook(lambda *_, number=number: running.append(number)),
            block.register_forward_hook(lambda *_: running.clear()),
        )
    ]

    def note(func, *args, **kwargs):
        at_calls.append(running[-1] if running else None)
        return func(*args, **kwargs)

    replaced = model.clone()
    if replacement is not None:
        replaced.set_model_patch_replace(replacement, "dit", "double_block", 1)
    try:
        seen: list[Seen] = []
        samples, prompts = tiny_dit.latent(name), two_prompts(name, True)
        result = tiny_dit.sample(watched(replaced, seen, after=note), *prompts, samples, steps=1)
    finally:
        for hook in hooks:
            hook.remove()
    layers = model_layers(model, "test")
    expected = [number for number in range(len(blocks)) if replacement is not skip or number != 1]
    assert [layers.index(o.layer) for o in seen[0].observations] == expected
    assert [at_calls[at] for at in seen[0].shown_at] == expected
    assert torch.equal(result, tiny_dit.sample(replaced, *prompts, samples, steps=1))


def test_positions_that_do_not_add_up_are_not_shown():
    """Z-Image with a reference (omni), whose layout is not known; a wrong slice would be a wrong map."""
    reference = tiny_dit.prompt("zimage", 0, reference_latents=[torch.zeros(1, 16, 4, 4)])
    assert look("zimage", reference).observations == []


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_guides_of_ltx_video(strength):
    """The clip's last frame is a guide; with a strength of its own the host splits self-attention in two calls."""
    guide = {"pre_filter_count": 15, "strength": strength, "pixel_mask": None, "latent_shape": (1, 5, 3)}
    positive = tiny_dit.prompt(
        "ltxv", keyframe_idxs=torch.arange(90.0).view(1, 3, 15, 2), concat_mask=torch.ones(1, 1, 2, 5, 3),
        guide_attention_entries=[guide],
    )
    seen = look("ltxv", positive)
    assert len(seen.raw) == (9 if strength < 1 else 6)
    assert [observation.layer for observation in seen.observations] == model_layers(tiny_dit.model("ltxv"), "test")
    for observation, at in zip(seen.observations, seen.shown_at, strict=True):
        of_frames = observation.self_attention.frames(2, keys=True)
        for frame, attention in zip((slice(0, 15), slice(15, 30)), of_frames, strict=True):
            call = seen.raw[at - 2 + frame.start // 15] if strength < 1 else seen.raw[at - 1]
            rows = slice(0, 15) if strength < 1 else frame
            assert (explicit(call, rows, frame) - attention.probabilities()).abs().max() < 1e-5


def test_references_that_a_model_ignores():
    reference = tiny_dit.prompt("chroma", 0, reference_latents=[torch.zeros(1, 16, 4, 4)])
    assert len(look("chroma", reference).observations) == 4


@pytest.mark.parametrize("name", ["lens", "ideogram4"])
def test_a_prompt_without_text(name):
    (observation, *_) = look(name, tiny_dit.prompt(name, 0, tokens=0)).observations
    assert observation.cross_attention.probabilities().shape == (1, 15, 0)
    torch.testing.assert_close(observation.self_attention.probabilities().sum(-1), torch.ones(1, 15))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WHOLE_PATCHES])
def test_a_latent_of_odd_size(name):
    """Most models pad it to whole patches."""
    samples = torch.nn.functional.pad(tiny_dit.latent(name), (0, 1, 0, 1))
    seen: list[Seen] = []
    tiny_dit.sample(watched(tiny_dit.model(name), seen), *two_prompts(name, False), samples, steps=1)
    (layer, *_), (*_, height, width) = model_layers(tiny_dit.model(name), "test"), samples.shape
    for call in seen:
        assert len(call.observations) == len(model_layers(tiny_dit.model(name), "test"))
        assert call.observations[0].grid[1:] == (-(-height // layer.downsample), -(-width // layer.downsample))


def chosen(name: str, layers: int) -> list[int]:
    (family,) = [family for family in FAMILIES if family.name == name]
    downsample, read = layers_at(family, [Layer(("block", number), 0, 2) for number in range(layers)], None, "test")
    assert downsample == 2
    return [layer.block[1] for layer in read]


def test_layers_that_are_read_by_default():
    """Of models as large as the real ones."""
    assert chosen("Stable Diffusion 3", 24) == [8, 11, 14]
    assert chosen("Flux", 19) == [14, 16, 17, 18]
    assert chosen("Flux 2", 8) == [4, 5, 6, 7]
    assert chosen("Z-Image", 30) == [10, 13, 15, 17]
    assert chosen("Qwen-Image", 60) == [21, 26, 30, 35]
    assert chosen("Wan", 40) == [13, 17, 22, 26]
    assert chosen("Anima", 28) == [9, 14, 18]
    assert chosen("Wan", 2) == [0, 1]


def test_a_transformer_has_one_grid():
    model = tiny_dit.model("flux")
    with pytest.raises(ValueError, match=r"^test: all attention of Flux is at 1/2 of the latent's size.*Choose auto"):
        layers_at(model_family(model, "test"), model_layers(model, "test"), 4, "test")
