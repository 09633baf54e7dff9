"""The whole of Attend-and-Excite in the host against a second implementation that shares no code with it.

That one is the paper's loop: a variance-preserving latent, DDIM, one image at a time, and the UNet called directly
with autograd through all of it. In the host x = z sqrt(1 + sigma^2) moves between Euler steps, which are DDIM steps.
"""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F
from host import tiny
from host.attend_excite_runs import in_inference_mode, with_trace
from host.scfg_runs import relative

TIMESTEPS = (999, 700, 400, 100)
SUBJECTS = (2, 5)
SCALE_FACTOR, CFG, REFINEMENTS = 0.4, 2.0, 2
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0)
READ = [("input_blocks", n) for n in (4, 5)] + [("output_blocks", n) for n in (6, 7, 8)]  # 1/2 of the latent


def loss_of(attention, h, w):
    scores = (100 * attention.reshape(h, w, -1)[:, :, 1:76]).softmax(-1)
    offsets = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    kernel = torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (4 * 0.5**2))
    kernel = (kernel / kernel.sum())[None, None]
    peaks = [F.conv2d(F.pad(scores[None, None, :, :, s - 1], (1, 1, 1, 1), mode="reflect"), kernel).max()
             for s in SUBJECTS]
    return max(torch.relu(1 - peak) for peak in peaks), peaks


class PlainUNet:
    """The network alone, with its cross-attention in the blocks of the paper's grid."""

    def __init__(self, patcher):
        self.unet = patcher.model.diffusion_model
        self.seen: dict = {}
        self.heads = 8  # of SD 1.x, whatever the width
        for folder, number in READ:
            attention = getattr(self.unet, folder)[number][1].transformer_blocks[-1].attn2
            for part in ("to_q", "to_k"):
                getattr(attention, part).register_forward_hook(
                    lambda module, args, output, key=(folder, number, part): self.seen.__setitem__(key, output)
                )

    def __call__(self, z, t, context):
        return self.unet(z, torch.tensor([float(t)]), context=context, transformer_options={})

    def attention(self):
        maps = []
        for folder, number in READ:
            q, k = (self.seen[folder, number, part].unflatten(-1, (self.heads, -1))[0] for part in ("to_q", "to_k"))
            logits = torch.einsum("phd,khd->hpk", q, k) * q.shape[-1] ** -0.5
            maps.append(logits.softmax(-1).mean(0))
        return torch.stack(maps).mean(0)


def tame(patcher):
    """Weaker queries and outputs, so that words draw attention apart."""
    with torch.no_grad():
        for name, weight in patcher.model.diffusion_model.named_parameters():
            if "attn2.to_q" in name or name == "out.2.weight":
                weight *= 0.3
    return patcher


def papers_loop(unet, z, cond, uncond, *, excited=True):
    steps = len(TIMESTEPS)
    thresholds = {0: 0.05, round(0.2 * steps): 0.5, round(0.4 * steps): 0.8}
    first_peaks, refinements = [], []

    def evaluate(latent, t):
        latent = latent.detach().requires_grad_()
        with torch.enable_grad():
            unet(latent, t, cond)
            loss, peaks = loss_of(unet.attention(), latent.shape[-2] // 2, latent.shape[-1] // 2)
        return loss, latent, [peak.item() for peak in peaks]

    for i, t in enumerate(TIMESTEPS):
        size = SCALE_FACTOR * (1.0 - 0.5 * i / (steps - 1)) ** 0.5
        if excited and i < (steps + 1) // 2:
            rounds = 0
            loss, variable, peaks = evaluate(z, t)
            first_peaks.append(peaks)
            target = 1 - thresholds.get(i, 0)
            if i in thresholds and loss > target:
                while loss > target:
                    rounds += 1
                    loss, variable, _ = evaluate(z, t)
                    z = z - size * torch.autograd.grad(loss, variable)[0]
                    if rounds >= REFINEMENTS:
                        break
                loss, variable, _ = evaluate(z, t)
            z = z - size * torch.autograd.grad(loss, variable)[0]
            refinements.append(rounds)
        with torch.no_grad():
            noise_c, noise_u = (unet(z, t, text).float() for text in (cond, uncond))  # the host rounds them, too
        noise = noise_u + CFG * (noise_c - noise_u)
        now = ALPHAS_CUMPROD[t]
        after = ALPHAS_CUMPROD[TIMESTEPS[i + 1]] if i + 1 < steps else torch.tensor(1.0)
        z = after.sqrt() * (z - (1 - now).sqrt() * noise) / now.sqrt() + (1 - after).sqrt() * noise
    return z, first_peaks, refinements


@pytest.fixture(scope="module")
def compared():
    noise = torch.randn((2, 4, 16, 24), generator=torch.Generator().manual_seed(3))
    cond, uncond = tiny.prompt(0), tiny.prompt(1)
    unet = PlainUNet(tame(tiny.sd15(seed=5)))
    texts = cond[0][0].double(), uncond[0][0].double()
    expected = [papers_loop(unet, noise[[image]].double(), *texts) for image in range(2)]

    model, record = with_trace(
        in_inference_mode(tame(tiny.sd15(seed=5))), scale_factor=SCALE_FACTOR, max_refinements=REFINEMENTS
    )
    sigmas = torch.tensor([((1 - ALPHAS_CUMPROD[t]) / ALPHAS_CUMPROD[t]) ** 0.5 for t in TIMESTEPS] + [0.0])
    with torch.inference_mode():
        samples = comfy.sample.sample_custom(
            model, noise, CFG, comfy.samplers.sampler_object("euler"), sigmas, cond, uncond,
            tiny.latent(2, 16, 24), disable_pbar=True, seed=1,
        )
    plain = papers_loop(unet, noise[:1].double(), *texts, excited=False)[0]
    return expected, plain, samples * model.get_model_object("latent_format").scale_factor, record.of(samples)


def test_latents_are_those_of_the_papers_loop(compared):
    expected, plain, samples, _ = compared
    assert relative(plain, expected[0][0]) > 1e-3
    for image, (latent, _, _) in enumerate(expected):
        assert relative(samples[[image]], latent) < tiny.EXACT


def test_peaks_and_refinements_are_those_of_the_papers_loop(compared):
    expected, _, _, trace = compared
    for image, (_, peaks, refinements) in enumerate(expected):
        seen = torch.stack([step.before[image] for step in trace.steps])
        torch.testing.assert_close(seen, torch.tensor(peaks, dtype=seen.dtype))
        assert [int(step.refinements[image]) for step in trace.steps] == refinements
        assert max(refinements) == REFINEMENTS
    assert all(0 < float(step.size.min()) and float(step.size.max()) < 0.5 for step in trace.steps)
