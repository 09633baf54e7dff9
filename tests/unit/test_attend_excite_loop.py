"""The whole of Attend-and-Excite against a second implementation that shares no code with it.

The second one is the loop as the paper has it: a variance-preserving latent z, DDIM, one image, one subject
per token. Ours moves x = z sqrt(1 + sigma^2) between Euler steps over sigma, which are the same DDIM steps.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from semantic_guidance.guidance.attend_excite import Excitation, Seen, excite, losses, schedule, subject_peaks

STEPS = 20
CFG = 4.0
EOT = 9
SUBJECTS = (2, 5)
SETTINGS = Excitation(scale_factor=6.0, limit=math.inf)
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # Stable Diffusion's
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0)
TIMESTEPS = [951 - 50 * i for i in range(STEPS)]


class TinyModel:
    """A noise prediction whose text reaches it through one cross-attention over an 8x8 grid.

    As in real models most of the attention goes to the start token, and neighbours attend alike.
    """

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)

        def weights(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.to_grid = weights(16, 4, 6, 6) * 0.05
        self.keys, self.values = weights(77, 16), weights(77, 16)
        self.to_noise = weights(16, 4, 2, 2) * 0.1
        self.start = weights(2, 4, 16, 16)

    def __call__(self, z, timestep, prompt=True):
        """Noise [B, 4, 16, 16] and attention [B, 8, 8, 77]."""
        grid = F.conv2d(z, self.to_grid, stride=2, padding=2) * (1 + timestep / 1000)
        keys = self.keys if prompt else self.keys.flip(0)
        logits = torch.tanh(grid).permute(0, 2, 3, 1) @ keys.T * 0.4  # [B, 8, 8, 77]
        logits = torch.cat([logits[..., :1] + 4, logits[..., 1:]], dim=-1)
        attention = logits.softmax(-1)
        text = (attention @ self.values).permute(0, 3, 1, 2)
        noise = F.conv_transpose2d(torch.tanh(grid + text), self.to_noise, stride=2)
        return 0.8 * z + noise, attention


def papers_loss(attention):
    """One image: attention [8, 8, 77], probabilities."""
    scores = (100 * attention[:, :, 1 : 77 - 1]).softmax(-1)
    offsets = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    kernel = torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (4 * 0.5**2))
    kernel = (kernel / kernel.sum())[None, None]
    losses = []
    for token in SUBJECTS:
        smoothed = F.conv2d(F.pad(scores[None, None, :, :, token - 1], (1, 1, 1, 1), mode="reflect"), kernel)
        losses.append(torch.relu(1 - smoothed.max()))
    return max(losses)


def papers_loop(model, z, *, excited=True):
    """Latents after every step, and the number of refinements at each. z: [1, 4, 16, 16]"""
    thresholds = {0: 0.05, round(0.2 * STEPS): 0.5, round(0.4 * STEPS): 0.8}
    latents, refinements = [], []

    def loss_at(latent, t):
        latent = latent.detach().requires_grad_()
        return papers_loss(model(latent, t)[1][0]), latent

    for i, t in enumerate(TIMESTEPS):
        rounds = 0
        if excited:
            step_size = 6.0 * math.sqrt(1.0 - 0.5 * i / (STEPS - 1))
            loss, variable = loss_at(z, t)
            if i in thresholds and loss > 1 - thresholds[i]:
                target = max(0, 1 - thresholds[i])
                while loss > target:
                    rounds += 1
                    loss, variable = loss_at(z, t)
                    if loss != 0:
                        z = z - step_size * torch.autograd.grad(loss, variable)[0]
                    if rounds >= 20:
                        break
                loss, variable = loss_at(z, t)
            if i < STEPS // 2 and loss != 0:
                z = z - step_size * torch.autograd.grad(loss, variable)[0]
        refinements.append(rounds)
        cond, uncond = model(z, t)[0], model(z, t, prompt=False)[0]
        noise = uncond + CFG * (cond - uncond)
        now = ALPHAS_CUMPROD[t]
        after = ALPHAS_CUMPROD[TIMESTEPS[i + 1]] if i + 1 < STEPS else torch.tensor(1.0, dtype=torch.float64)
        clean = (z - (1 - now).sqrt() * noise) / now.sqrt()
        z = after.sqrt() * clean + (1 - after).sqrt() * noise
        latents.append(z)
    return torch.stack(latents), refinements


def sigma_loop(model, z, *, factor=True):
    """The same in sigma space, for a batch, with the pack's functions. Latents come back as z."""
    sigmas = [math.sqrt((1 - ALPHAS_CUMPROD[t]) / ALPHAS_CUMPROD[t]) for t in TIMESTEPS] + [0.0]
    plan = schedule(SETTINGS, STEPS)
    x = z * math.sqrt(1 + sigmas[0] ** 2)
    latents, refinements = [], []
    for i, t in enumerate(TIMESTEPS):
        sigma, to_z = sigmas[i], 1 / math.sqrt(1 + sigmas[i] ** 2)

        def evaluate(x, t=t, to_z=to_z):
            variable = x.detach().requires_grad_()
            peaks = subject_peaks(model(variable * to_z, t)[1], range(1, 76), [[s] for s in SUBJECTS])
            (gradient,) = torch.autograd.grad(losses(peaks).sum(), variable)
            loss = losses(peaks).detach()
            return Seen(peaks.detach(), loss, loss[:, None], gradient)

        rounds = [0] * len(x)
        if i < len(plan):
            result = excite(x, 1 + sigma**2 if factor else 1.0, plan[i], SETTINGS, evaluate)
            x, rounds = result.x, result.refinements.tolist()
        refinements.append(rounds)
        cond, uncond = model(x * to_z, t)[0], model(x * to_z, t, prompt=False)[0]
        noise = uncond + CFG * (cond - uncond)
        x = x + noise * (sigmas[i + 1] - sigma)
        latents.append(x / math.sqrt(1 + sigmas[i + 1] ** 2))
    return torch.stack(latents), refinements


@pytest.mark.parametrize("seed", [0, 1])
def test_the_sigma_form_gives_the_latents_of_the_papers_loop(seed):
    model = TinyModel(seed)
    latents, refinements = sigma_loop(model, model.start)
    without_factor, _ = sigma_loop(model, model.start, factor=False)
    for image in range(2):
        expected, expected_refinements = papers_loop(model, model.start[[image]])
        assert [rounds[image] for rounds in refinements] == expected_refinements
        assert 20 in expected_refinements
        torch.testing.assert_close(latents[:, [image]], expected, atol=1e-10, rtol=0)

        plain, _ = papers_loop(model, model.start[[image]], excited=False)
        assert (expected - plain).abs().max() > 1
        assert (without_factor[:, [image]] - expected).abs().max() > 1


def test_a_refinement_that_succeeds_is_among_those_compared():
    model = TinyModel(0)
    _, refinements = papers_loop(model, model.start[[0]])
    assert 0 < refinements[0] < 20
