"""The transformers, with initial weights: they train, are written, and load into the host as what they are."""
from __future__ import annotations

import shutil
from dataclasses import replace

import comfy.model_management
import comfy.sample
import pytest
import torch
import torch.distributed as dist

from sticker_world.loader import WEIGHTS, load_sticker_world
from sticker_world.sampling import SETTINGS, encode, generate
from sticker_world.train_transformer import FlowTrainer, export_transformer
from sticker_world.transformers import TRANSFORMERS


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory):
    meeting = tmp_path_factory.mktemp("training") / "meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_it_learns_and_loads_into_the_host(name, tmp_path, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    trainer = FlowTrainer(name, seed=0, steps=300, rate=1e-3, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    data = {
        "latents": torch.randn(4, 4, 32, 32, generator=generator), "text": torch.randn(5, 77, 128, generator=generator),
        "pooled": torch.randn(5, 128, generator=generator),
    }  # fmt: skip
    before = [value.clone() for value in trainer.master]
    errors = [trainer.update(data, batch=2) for _ in range(2)]
    assert all(error == pytest.approx(2, rel=0.2) for error in errors)  # the flow's own variance: nothing known yet
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.master, strict=True))
    monkeypatch.setattr(comfy.model_management, "in_training", False)

    with torch.no_grad():  # as after a training: no gate and no last layer is zero
        for compute, mean in zip(trainer.compute, trainer.mean, strict=True):
            if mean.abs().max() < 1e-2:
                mean.normal_(std=0.05, generator=generator)
            compute.copy_(mean)
    for path in WEIGHTS.glob("*.safetensors"):
        shutil.copy(path, tmp_path)
    export_transformer(trainer, name, tmp_path)
    world = load_sticker_world(tmp_path, name)
    video = TRANSFORMERS[name].video
    assert comfy.sample.fix_empty_latent_channels(world[0], torch.zeros(1, 4, 32, 32)).ndim == (5 if video else 4)
    picture = generate(world, "a cat", [0], replace(SETTINGS[name], steps=2))
    assert picture.shape == (1, 128, 128, 3) and picture.isfinite().all()

    x, t = torch.randn(2, 4, 32, 32, generator=generator), torch.tensor([0.3, 0.9])
    text = encode(world[1], "a cat")[0]
    pooled = text[1]["pooled_output"].expand(2, -1)
    latent = x.unsqueeze(2) if video else x
    world[0].model.diffusion_model.float()
    flow = world[0].model.diffusion_model(
        latent, 1000 * t, context=text[0].expand(2, -1, -1).float(), **({} if video else {"y": pooled.float()})
    )
    expected = trainer.predict(x, t, text[0].expand(2, -1, -1).bfloat16(), pooled.bfloat16())
    flow = flow.squeeze(2) if video else flow
    assert expected.std() > 0.1
    assert (flow - expected).norm() / expected.norm() < 0.05  # of bf16's 2^-9 a layer, against weights in fp16


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_missing_weights_are_named_with_the_command_that_makes_them(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{name}\.safetensors.*dev\.py train --model {name}"):
        load_sticker_world(tmp_path, name)
