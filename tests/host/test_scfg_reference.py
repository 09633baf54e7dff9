"""The node against a plain implementation of the whole method, written here from the paper and the authors' constants.

It stores the explicit attention maps of all layers, as the authors do, and guides through sampler_cfg_function.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from host import tiny
from host.scfg_runs import SIZE, relative, run, with_scfg

BLOCKS = [("input", 7), ("input", 8), ("middle", 0), ("output", 3), ("output", 4), ("output", 5)]
TAPS = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).square().neg().softmax(0)  # 0.212, 0.576, 0.212
NEGATIVE, POSITIVE = 1, 0


class AuthorsWay:
    """Attention maps and the guidance made from them, for prompts of 77 tokens and SD 1.5's layers."""

    def __init__(self, completion: str):
        self.completion = completion
        self.stored = []  # of one step: (height, width, self map, cross map), maps as {prompt: [B, P, K]}
        self.guided_steps = 0

    def install(self, model):
        model = model.clone()
        for block in BLOCKS:
            model.set_model_attn1_replace(self.attention, *block)
            model.set_model_attn2_replace(self.attention, *block)
        model.set_model_sampler_cfg_function(self.cfg)
        return model

    def attention(self, q, k, v, options):
        heads = options["n_heads"]
        split = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v)]
        weights = (split[0] @ split[1].mT / split[0].shape[-1] ** 0.5).softmax(dim=-1)
        prompts = options["cond_or_uncond"]
        maps = dict(zip(prompts, weights.mean(dim=1).chunk(len(prompts)), strict=True))
        if q.shape[1] == k.shape[1]:
            self.stored.append([*options["activations_shape"][-2:], maps])
        else:
            self.stored[-1].append(maps)
        return (weights @ split[2]).transpose(1, 2).flatten(2)

    def completed(self, s, c):
        if self.completion == "as released":
            return (s + 3 * s @ s) / 4 @ c
        return sum(torch.linalg.matrix_power(s, power) for power in (1, 2, 3, 4)) / 4 @ c

    def smoothed(self, maps):
        kernel = torch.outer(TAPS, TAPS).expand(maps.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="reflect"), kernel, groups=maps.shape[1])

    def layer_maps(self, prompt):
        finest = max(layer[:2] for layer in self.stored)
        for height, width, s, c in self.stored:
            maps = self.completed(s[prompt], c[prompt]).mT.unflatten(2, (height, width))
            if (height, width) != finest:
                maps = F.interpolate(maps, size=finest, mode="bilinear", align_corners=False)
            yield self.smoothed(maps)

    def cfg(self, args):
        assert len(self.stored) == len(BLOCKS)
        scale = args["cond_scale"]
        difference = args["cond_denoised"] - args["uncond_denoised"]
        norm = difference.norm(dim=1)  # [B, H, W]
        tokens, background, rest = 0, 0, 0
        for maps in self.layer_maps(POSITIVE):
            tokens = tokens + maps / (maps.mean(dim=(2, 3), keepdim=True) + 1e-8)
        for maps in self.layer_maps(NEGATIVE):
            background = background + maps[:, 0] / maps[:, 0].mean(dim=(1, 2), keepdim=True)
            others = maps[:, 1:].sum(dim=1)
            rest = rest + others / others.mean(dim=(1, 2), keepdim=True)
        factor = norm.shape[-1] // tokens.shape[-1]
        winner = tokens.argmax(dim=1).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        foreground = (rest > background).repeat_interleave(factor, 1).repeat_interleave(factor, 2)

        rate = torch.zeros_like(norm)
        for image in range(norm.shape[0]):
            level = norm[image][foreground[image]].mean()
            for token in winner[image].unique():
                region = winner[image] == token
                rate[image][region] = level / norm[image][region].mean()
        rate = self.smoothed(rate.clamp(0.8, 3.0).clamp(max=15 / scale)[:, None])
        self.stored.clear()
        self.guided_steps += 1
        return args["input"] - (args["uncond_denoised"] + scale * rate * difference)


@pytest.mark.parametrize("completion", ["as released", "power series"])
@pytest.mark.parametrize("size", [SIZE, (32, 16)])
def test_the_node_samples_what_the_authors_way_does(sd15, completion, size):
    reference = AuthorsWay(completion)
    expected = run(reference.install(sd15), batch=2, size=size)
    assert reference.guided_steps == 2
    result = run(with_scfg(sd15, completion=completion), batch=2, size=size)
    assert relative(result, expected) < tiny.EXACT
    plain = run(sd15, batch=2, size=size)
    assert relative(plain, expected) > 0.05


def test_v_prediction_with_two_evaluations_in_a_step():
    model = tiny.sd21()
    expected = run(AuthorsWay("as released").install(model), batch=2, sampler="heun")
    assert relative(run(with_scfg(model), batch=2, sampler="heun"), expected) < tiny.EXACT
    assert relative(run(model, batch=2, sampler="heun"), expected) > 0.05


def test_the_two_completions_differ(sd15):
    released, series = (run(with_scfg(sd15, completion=name)) for name in ("as released", "power series"))
    assert relative(series, released) > 1e-3
