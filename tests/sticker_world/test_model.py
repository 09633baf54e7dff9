"""The loaded objects are the host's own, and the host's nodes and options work on them."""
from __future__ import annotations

import asyncio
import shutil

import comfy.hooks
import comfy.model_patcher
import comfy.sample
import comfy.sd
import nodes
import pytest
import torch
from latent_preview import Latent2RGBPreviewer

import sticker_world
from sticker_world.loader import WEIGHTS, load_sticker_world
from sticker_world.model import new_text_model
from sticker_world.sampling import Settings, encode, generate
from sticker_world.scenes import make_scenes
from sticker_world.train import text_states, tokenize

FAST = Settings(steps=2, sampler="euler", scheduler="normal")


@pytest.fixture(scope="module")
def world():
    return load_sticker_world()


def test_the_node_gives_the_hosts_types():
    extension = asyncio.run(sticker_world.comfy_entrypoint())
    (node,) = asyncio.run(extension.get_node_list())
    schema = node.GET_SCHEMA()
    assert (schema.node_id, schema.display_name) == ("StickerWorldLoader", "Load Sticker World")
    model, clip, vae = node.execute().result
    assert isinstance(model, comfy.model_patcher.ModelPatcher)
    assert isinstance(clip, comfy.sd.CLIP) and isinstance(vae, comfy.sd.VAE)


def test_missing_weights_are_named_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"unet\.safetensors.*dev\.py train"):
        load_sticker_world(tmp_path)


def test_damaged_weights_are_named_with_the_remedy(tmp_path):
    for path in WEIGHTS.glob("*.safetensors"):
        shutil.copy(path, tmp_path)
    damaged = tmp_path / "text_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"text_model\.safetensors.*damaged.*dev\.py train"):
        load_sticker_world(tmp_path)


def test_the_weights_are_small():
    assert all(path.stat().st_size < 25e6 for path in WEIGHTS.glob("*.safetensors"))


def test_the_prompt_is_encoded_as_in_sd15(world):
    _, clip, _ = world
    (plain, extra), (weighted, _) = encode(clip, "a cat")[0], encode(clip, "a (cat:1.3)")[0]
    assert plain.shape == (1, 77, 128) and extra["pooled_output"].shape == (1, 128)
    difference = (weighted - plain).abs().amax(-1)[0]
    assert difference[2] > 0 and difference[[0, 1]].max() == 0
    assert encode(clip, "a cat and a dog and " * 20 + "a red balloon")[0][0].shape[1] == 154
    assert torch.isfinite(encode(clip, "an axolotl riding a velocipede")[0][0]).all()


def test_clip_skip(world):
    skipped = world[1].clone()
    skipped.clip_layer(-2)
    assert not torch.equal(encode(skipped, "a cat")[0][0], encode(world[1], "a cat")[0][0])


def test_training_computes_text_as_the_host_does():
    text = new_text_model(seed=1)
    with torch.no_grad():
        embeds = text.get_input_embeddings()(tokenize(["a cat and a red balloon", ""]))
        host = text(None, embeds=embeds, num_tokens=[8, 2])[0]
        torch.testing.assert_close(text_states(text, embeds), host, rtol=1e-4, atol=1e-5)


def test_ksampler_and_decode_from_the_hosts_empty_latent(world):
    model, clip, vae = world
    latent = nodes.EmptyLatentImage().generate(128, 128, 2)[0]
    negative = encode(clip, "")
    samples = nodes.KSampler().sample(model, 1, 3, 5.0, "euler", "normal", encode(clip, "a dog"), negative, latent)[0]
    assert samples["samples"].shape == (2, 4, 32, 32)
    images = nodes.VAEDecode().decode(vae, samples)[0]
    assert images.shape == (2, 128, 128, 3) and 0 <= images.min() and images.max() <= 1


def test_a_seed_gives_the_same_picture_whatever_the_batch(world):
    alone = generate(world, "a cat", [5], FAST)
    among = generate(world, "a cat", [4, 5], FAST)
    torch.testing.assert_close(alone[0], among[1], atol=0.5 / 255, rtol=0)  # of a picture of 8 bits
    assert not torch.equal(alone, generate(world, "a dog", [5], FAST))


def test_the_autoencoder_keeps_pictures_and_its_latents_have_unit_scale(world):
    model, _, vae = world
    images = torch.stack([scene.image for scene in make_scenes(8, seed=11)])
    latents = nodes.VAEEncode().encode(vae, images)[0]["samples"]
    assert latents.shape == (8, 4, 32, 32)
    assert (vae.decode(latents) - images).abs().mean() < 0.02
    assert 0.8 < model.model.process_latent_in(latents).std() < 1.2


def test_the_latent_preview_shows_the_colours(world):
    model, _, vae = world
    images = torch.stack([scene.image for scene in make_scenes(4, seed=12)])
    latents = model.model.process_latent_in(vae.encode(images))
    form = model.model.latent_format
    previewer = Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias)
    for latent, image in zip(latents, images, strict=True):
        shown = torch.tensor(list(previewer.decode_latent_to_preview(latent[None]).tobytes())).view(32, 32, 3) / 255
        small = image.unflatten(0, (32, 4)).unflatten(2, (32, 4)).mean((1, 3))
        assert (shown - small).abs().mean() < 0.08


def test_a_lora_hook_changes_its_run_and_leaves_the_model_alone(world):
    model, clip, vae = world
    layer = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_out.0"
    outputs, inputs = model.model.state_dict()[f"{layer}.weight"].shape
    up, down = torch.full((outputs, 4), 0.3), torch.ones(4, inputs)
    lora = {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}

    def with_hook(model, clip, prompt):
        model, _, hooks = comfy.hooks.load_hook_lora_for_models(model, clip, lora, 1.0, 0.0)
        return model, comfy.hooks.set_hooks_for_conditioning(encode(clip, prompt), hooks)

    before = generate(world, "a cat", [0], FAST)
    hooked = generate(world, "a cat", [0], FAST, with_hook)
    assert (hooked - before).abs().max() > 0.05
    torch.testing.assert_close(generate(world, "a cat", [0], FAST), before, atol=1e-4, rtol=0)


def test_it_computes_the_same_with_half_its_weights_offloaded(world):
    model = world[0].clone()
    x, sigma, context = torch.randn(1, 4, 32, 32), torch.tensor([2.0]), encode(world[1], "a frog")[0][0]
    model.load(model.load_device, full_load=True)
    whole = model.model.apply_model(x, sigma, c_crossattn=context)
    model.unpatch_model(model.offload_device)
    model.load(model.load_device, lowvram_model_memory=model.model_size() // 2)
    assert model.model.model_lowvram
    torch.testing.assert_close(model.model.apply_model(x, sigma, c_crossattn=context), whole, atol=1e-4, rtol=1e-4)
    model.unpatch_model(model.offload_device)
