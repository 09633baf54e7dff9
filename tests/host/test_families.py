"""S-CFG on each supported family, in each precision and placement, and its refusal of the others."""

from __future__ import annotations

import threading

import comfy.model_base
import comfy.model_patcher
import pytest
import torch
from host import tiny
from host.scfg_runs import relative, run, with_regions, with_scfg

from semantic_guidance.attention_hooks.families import FAMILIES, REFUSED


@pytest.mark.parametrize("build", [tiny.sdxl, tiny.refiner, tiny.sd21])
@pytest.mark.identity
def test_families(build):
    family = build()
    model, record = with_regions(family)
    samples = run(model, batch=2)
    assert samples.isfinite().all()
    assert relative(samples, run(family, batch=2)) > 1e-3
    assert torch.equal(run(model, batch=2), samples)
    assert torch.equal(run(with_scfg(family, strength=0.0), batch=2), run(family, batch=2))
    assert [len(step.owner.unique()) > 1 for step in record.of(samples).steps] == [True, True]


@pytest.mark.parametrize("scale", ["1/2", "1/4"])
def test_grids_of_sdxl(sdxl, scale):
    model, record = with_regions(sdxl, map_scale=scale)
    step = record.of(run(model, steps=1)).steps[0]
    cell = int(scale[-1])
    cells = step.owner[:, ::cell, ::cell]
    assert torch.equal(step.owner, cells.repeat_interleave(cell, 1).repeat_interleave(cell, 2))
    assert len(cells.unique()) > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights(dtype):
    """Weights in half precision are cast at each call (manual cast); here to float64, by the host to float32."""
    half = tiny.in_float64(tiny.sd15(dtype=dtype))
    half.model.manual_cast_dtype = torch.float64
    rounded = tiny.sd15()
    rounded.model.diffusion_model.load_state_dict(half.model.diffusion_model.state_dict())
    assert relative(run(with_scfg(half)), run(with_scfg(rounded))) < tiny.EXACT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_hosts_own_precisions(dtype):
    model = tiny.sd15(dtype=dtype)
    guided = with_scfg(model)
    samples = run(guided)
    assert relative(samples, run(model)) > 1e-3
    assert torch.equal(run(guided), samples)
    assert torch.equal(run(with_scfg(model, strength=0.0)), run(model))


def test_computing_in_bfloat16(sd15):
    model = sd15.clone()
    model.set_model_compute_dtype(torch.bfloat16)
    samples = run(with_scfg(model))
    assert samples.isfinite().all()
    assert relative(samples, run(model)) > 1e-3
    assert torch.equal(run(with_scfg(model, strength=0.0)), run(model))


def test_a_model_of_which_only_a_part_is_loaded(monkeypatch, sd15):
    model = tiny.loaded_in_part(monkeypatch, with_scfg(tiny.sd15()))
    samples = run(model)
    assert model.model.model_lowvram
    assert 0 < model.model.model_loaded_weight_memory < model.model_size() / 2
    assert relative(samples, run(with_scfg(sd15))) < tiny.EXACT


def test_prompts_on_two_devices_in_two_threads(sd15):
    """The host's MultiGPU CFG Split, with two names of the CPU for the devices."""
    second = tiny.sd15()
    second.load_device, second.is_multigpu_base_clone = torch.device("cpu:0"), True
    model = sd15.clone()
    model.set_additional_models("multigpu", [second])
    threads = set()

    def note_thread(executor, *args, **kwargs):
        threads.add(threading.current_thread())
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("apply_model", "test", note_thread)
    assert relative(run(with_scfg(model)), run(with_scfg(sd15))) < tiny.EXACT
    assert len(threads) == 2


def of_class(base: type):
    """What nodes look at of a model, with nothing in it."""
    model = object.__new__(base)
    torch.nn.Module.__init__(model)
    model.diffusion_model = torch.nn.Identity()
    return comfy.model_patcher.ModelPatcher(model, tiny.CPU, tiny.CPU)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_read_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=rf"^S-CFG: the model is a {name} \(Identity\).*cannot read: ") as error:
        with_scfg(of_class(getattr(comfy.model_base, name)))
    assert REFUSED[name] in str(error.value)


class Flux(comfy.model_base.Flux):
    """Of another pack, under a name of the host's."""


@pytest.mark.parametrize("base", [comfy.model_base.StableCascade_C, comfy.model_base.SVD_img2vid, Flux])
def test_a_model_of_an_unknown_family_is_refused_by_name(base):
    with pytest.raises(ValueError, match=rf"^S-CFG: the model is a {base.__name__} \(Identity\).*Supported: .*Z-Image"):
        with_scfg(of_class(base))


def test_every_class_of_a_row_is_the_hosts_and_stands_once():
    classes = [name for family in FAMILIES for name in family.classes]
    assert all(hasattr(comfy.model_base, name) for name in [*classes, *REFUSED])
    shared = {name for name in classes if classes.count(name) > 1}
    assert shared == {"BaseModel", "Lumina2"}
    assert not set(classes) & set(REFUSED)
