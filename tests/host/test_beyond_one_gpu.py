"""Two devices that share a step, and engines that show each device only a part of the picture."""

from __future__ import annotations

import sys

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from host import attend_excite_runs, scfg_runs, sega_runs, test_scfg_families, tiny, tiny_dit
from host.scfg_runs import relative

METHODS = {
    "S-CFG": (scfg_runs.with_scfg, scfg_runs.run),
    "SEGA": (sega_runs.with_sega, sega_runs.run),
    "Attend-and-Excite": (attend_excite_runs.excited, attend_excite_runs.run),
}


def on_two_devices(model):
    """The host's MultiGPU CFG Split, with two names of the CPU for the devices."""
    model = model.clone()
    second = model.clone(model_override=tiny.sd15().get_clone_model_override())  # as its deepclone_multigpu does
    second.load_device, second.is_multigpu_base_clone = torch.device("cpu:0"), True
    model.set_additional_models("multigpu", [second])
    return model


def by_halves(model):
    """The picture's upper half, then its lower."""
    model = model.clone()

    def halves(executor, x, *args, **kwargs):
        return torch.cat([executor(half, *args, **kwargs) for half in x.chunk(2, dim=-2)], dim=-2)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", halves)
    return model


def queries_by_halves(monkeypatch):
    """The host's attention, called once for the first half of the queries and once for the others."""

    def divided(attention):
        def called_twice(q, k, v, heads, *args, **kwargs):
            before, after = (2 if kwargs.get(name) else 1 for name in ("skip_reshape", "skip_output_reshape"))
            return torch.cat([attention(half, k, v, heads, *args, **kwargs) for half in q.chunk(2, before)], after)

        return called_twice

    for name, module in list(sys.modules.items()):
        for attention in ("optimized_attention", "optimized_attention_masked"):
            if name.startswith("comfy.ldm.") and hasattr(module, attention):
                monkeypatch.setattr(module, attention, divided(getattr(module, attention)))


@pytest.mark.parametrize("method", METHODS)
def test_two_devices_give_what_one_gives_in_either_order(sd15, method):
    act, run = METHODS[method]
    one = run(act(sd15), steps=2)
    assert relative(run(sd15, steps=2), one) > 1e-3
    for both in (act(on_two_devices(sd15)), on_two_devices(act(sd15))):
        assert relative(run(both, steps=2), one) < 2e-4


@pytest.mark.parametrize("method", ["S-CFG", "Attend-and-Excite"])
def test_a_unet_that_is_shown_half_pictures_is_refused(sd15, method):
    act, run = METHODS[method]
    with pytest.raises(ValueError, match=rf"{method}: another node replaces every attention layer"):
        run(act(by_halves(sd15)), size=(32, 32))


@pytest.mark.parametrize("name", ["flux", "zimage", "wan"])
def test_a_transformer_that_is_shown_half_pictures_is_refused(name):
    model = test_scfg_families.with_scfg(by_halves(tiny_dit.model(name)))
    with pytest.raises(ValueError, match="S-CFG: another node replaces every .*or divides it among devices"):
        test_scfg_families.run(model, name, noise=test_scfg_families.noise(name, scale=4))


@pytest.mark.parametrize("name", ["sd15", "sd3", "flux", "qwen", "zimage", "wan"])
def test_attention_by_halves_of_the_queries_is_refused(monkeypatch, sd15, name):
    model = sd15 if name == "sd15" else tiny_dit.model(name)

    def run(model):
        return scfg_runs.run(model) if name == "sd15" else test_scfg_families.run(model, name)

    alone = run(model)
    queries_by_halves(monkeypatch)
    assert relative(run(model), alone) < 1e-4
    with pytest.raises(ValueError, match="S-CFG: another node replaces every .*or divides it among devices"):
        run(scfg_runs.with_scfg(model))
