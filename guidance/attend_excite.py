"""Attend-and-Excite: move the latent until every subject of the prompt is attended to somewhere.

Chefer et al., "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion Models",
SIGGRAPH 2023, https://arxiv.org/abs/2301.13826. Softmax of 100 times the attention, the blur, step sizes and
refinement follow the authors' code. The paper moves a variance-preserving latent z; k-diffusion samplers hold
x = z sqrt(variance), which is 1 + sigma^2 there, and (1 - sigma)^2 + sigma^2 for models of straight flow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention_losses import polyak_rate
from .smoothing import smooth

CHUNK = 77  # tokens that a CLIP text encoder takes at once
SHARPNESS = 100


@dataclass(frozen=True)
class Excitation:
    """The paper's settings. Shares are of the number of sampler steps; thresholds are of a subject's peak."""

    scale_factor: float = 20.0
    scale_range: tuple[float, float] = (1.0, 0.5)
    share: float = 0.5  # the first half of the steps moves the latent
    thresholds: tuple[tuple[float, float], ...] = ((0.0, 0.05), (0.2, 0.5), (0.4, 0.8))  # (share, peak)
    max_refinements: int = 20
    limit: float = 0.1  # longest step, as a share of the latent's norm
    enough: float = 1.0  # an image whose subjects all have this peak has no loss
    polyak: float | None = None  # eta of Polyak's step, in place of the paper's


@dataclass(frozen=True)
class Step:
    alpha: float  # step size for the variance-preserving latent
    target: float | None  # refine until the loss is at most this


@dataclass(frozen=True)
class Seen:
    """What one evaluation of the model shows of each image."""

    peaks: Tensor  # [B, subjects]
    neglect: Tensor  # [B], `losses` of the subjects that must not be left out; refinement goes by it
    values: Tensor  # [B, losses], whose sum moves the latent
    gradient: Tensor  # [B, ...], of that sum by x


@dataclass(frozen=True)
class Excited:
    """What one sampler step did to each image."""

    x: Tensor  # [B, ...] the latent to go on with
    peaks: Tensor  # [evaluations, B, subjects], in the order in which the latent moved
    values: Tensor  # [evaluations, B, losses]
    refinements: Tensor  # [B] int64
    sizes: Tensor  # [evaluations, B] length of the move after each, relative to the latent's norm


def score_columns(eots: Sequence[int], *, until_eot: bool, size: int = CHUNK) -> list[int]:
    """The token columns that compete for attention, over all chunks of a prompt.

    eots: index of the first end token in each chunk of `size` tokens. until_eot: for text encoders whose end token
    draws attention (SD 2), columns 1 to EOT - 1; otherwise (SD 1) 1 to 75, all but the start and the last token.
    """
    ends = eots if until_eot else [size - 1] * len(eots)
    return [chunk * size + token for chunk, end in enumerate(ends) for token in range(1, end)]


def subject_score(attention: Tensor, columns: Sequence[int], subject: Sequence[int]) -> Tensor:
    """How much more a position attends to one subject than to all other tokens, between 0 and 1.

    attention: [..., tokens] probabilities, averaged over heads and layers; subject: its token columns.

    The tokens of a phrase do not compete with each other, and their scores are averaged: 1 needs all words at
    one place, a word alone gives 1 / n. One token is the paper's score.
    """
    others = [column for column in columns if column not in subject]
    scores = []
    for token in subject:
        rivals = sorted([*others, token])
        scores.append((SHARPNESS * _take(attention, rivals)).softmax(-1)[..., rivals.index(token)])
    return torch.stack(scores).mean(0)


def _take(attention: Tensor, columns: list[int]) -> Tensor:
    """attention[..., columns], for columns in order, by slices: sending an index to a GPU would wait for it."""
    starts = [i for i in range(len(columns)) if i == 0 or columns[i] != columns[i - 1] + 1]
    ends = [*starts[1:], len(columns)]
    return torch.cat([attention[..., columns[a] : columns[b - 1] + 1] for a, b in zip(starts, ends, strict=True)], -1)


def subject_maps(
    attention: Tensor, columns: Sequence[int], subjects: Sequence[Sequence[int]], where: Tensor | None = None
) -> Tensor:
    """The smoothed score of each subject at every position.

    attention: [B, ..., h, w, tokens]; where: [B or 1, ..., h, w], 1 where the prompt acts and 0 elsewhere.
    Returns [B, subjects, ..., h, w]; axes before h and w are frames of a clip.
    """
    scores = torch.stack([subject_score(attention, columns, subject) for subject in subjects], dim=1)
    return smooth(scores if where is None else scores * where[:, None])


def subject_peaks(attention: Tensor, columns: Sequence[int], subjects: Sequence[Sequence[int]]) -> Tensor:
    """The highest smoothed score m_s of each subject. [B, ..., h, w, tokens] -> [B, subjects]"""
    return subject_maps(attention, columns, subjects).flatten(2).amax(-1)


def losses(peaks: Tensor, enough: float = 1.0) -> Tensor:
    """The loss of each image: how little its most neglected subject is attended to. [B, subjects] -> [B]

    0 where every peak is `enough`: in the paper, 1. Images do not share anything, so the gradient of the sum over B
    holds the gradient of each.
    """
    worst = (1 - peaks).clamp(min=0).amax(-1)
    return torch.where(peaks.amin(-1) >= enough, 0, worst)


def schedule(settings: Excitation, steps: int) -> list[Step]:
    """The steps that move the latent, from the first sampler step on; all later ones leave it alone.

    The authors' code would also refine after that, where its defaults never put a threshold.
    """
    if settings.scale_factor == 0 or settings.polyak == 0:
        return []
    targets: dict[int, float] = {}
    for share, threshold in settings.thresholds:
        step = _nearest(share * steps)
        targets[step] = min(targets.get(step, 1.0), max(0.0, 1 - threshold))
    decay = torch.linspace(*settings.scale_range, steps, dtype=torch.float64).sqrt()
    alphas = (settings.scale_factor * decay).tolist()
    return [Step(alphas[i], targets.get(i)) for i in range(_nearest(settings.share * steps))]


def _nearest(step: float) -> int:
    return int(step + 0.5)


def latent_move(x: Tensor, gradient: Tensor, rate: float | Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """What to add to x, and its length relative to the norm of x.

    x, gradient of each image's loss by x: [B, ...]; rate: one, or of each image. Returns ([B, ...], [B]).

    z - alpha dL/dz is x - alpha variance dL/dx. A step size of 20 was chosen for latents of 4x64x64; the
    limit keeps others from being thrown off their noise level. The losses that the authors printed fall by at
    most 0.88 from one step to the next, which to first order takes a move of 3 % of the norm.
    """
    move = -(_per_image(rate, x) if isinstance(rate, Tensor) else rate) * gradient
    norm, length = x.flatten(1).norm(dim=1), move.flatten(1).norm(dim=1)
    tiny = torch.finfo(x.dtype).tiny
    shrink = (limit * norm / length.clamp_min(tiny)).clamp(max=1)
    return move * _per_image(shrink, x), shrink * length / norm.clamp_min(tiny)


def excite(
    x: Tensor,
    variance: float,
    step: Step,
    settings: Excitation,
    evaluate: Callable[[Tensor], Seen],
    noise: Tensor | None = None,
) -> Excited:
    """One step of the paper's Algorithm 1, for every image of the batch on its own.

    x = z sqrt(variance): [B, ...]; noise: the norm of the noise in each image, [B], for Polyak's step.

    As in the authors' code a refinement ends one move after the loss was seen to meet the target.
    """

    def moved(images: Tensor) -> tuple[Tensor, Tensor]:
        if settings.polyak is None or noise is None:
            rate: float | Tensor = step.alpha * variance
        else:
            rate = polyak_rate(noise, seen.gradient, settings.polyak)
        delta, size = latent_move(x, seen.gradient, rate, settings.limit)
        return torch.where(_per_image(images, x), x + delta, x), torch.where(images, size, 0)

    seen = evaluate(x)
    peaks, values = [seen.peaks], [seen.values]
    sizes: list[Tensor] = []
    refinements = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    target = torch.inf if step.target is None else step.target
    refining = seen.neglect > target
    while target < torch.inf and len(sizes) < settings.max_refinements and refining.any():
        x, size = moved(refining)
        sizes.append(size)
        refinements += refining
        refining = refining & (seen.neglect > target)
        seen = evaluate(x)
        peaks.append(seen.peaks)
        values.append(seen.values)

    x, size = moved(seen.values.sum(1) > 0)
    return Excited(x, torch.stack(peaks), torch.stack(values), refinements, torch.stack([*sizes, size]))


def _per_image(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))  # [B] -> [B, 1, ..., 1]
