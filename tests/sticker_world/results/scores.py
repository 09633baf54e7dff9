"""Scores of pictures by the judge: soft atoms, and the Fréchet distance to composed scenes."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..judge import SMALLEST_SUBJECT, load_judge
from ..scenes import COLOURS, NOUNS

Thing = tuple[str, str | None]


@torch.no_grad()
def atoms_and_features(images: Tensor, things: Sequence[Thing]) -> tuple[Tensor, Tensor]:
    """What `things` were asked for, as probabilities, and the picture's features.

    images: [B, 128, 128, 3] in 0..1. Returns atoms [B, n] and features [B, 96]. A thing is one atom, with a colour two:
    that the noun is there (its mean probability in the cells where it is highest, as many as the smallest subject has),
    and that those cells have the colour, times the first. features: the mean over all cells before the last layer.
    """
    net = load_judge()
    features = net.features(images.float().cpu().movedim(-1, 1).contiguous() * 2 - 1)
    nouns, colours = net.head(features).split([len(NOUNS) + 2, len(COLOURS)], 1)
    nouns, colours = nouns.softmax(1).flatten(2), colours.softmax(1).flatten(2)  # [B, classes, cells]
    atoms = []
    for noun, colour in things:
        present, cells = nouns[:, NOUNS.index(noun)].topk(SMALLEST_SUBJECT, dim=1)
        atoms.append(present.mean(1))
        if colour:
            coloured = colours[:, COLOURS.index(colour)].gather(1, cells)
            atoms.append((coloured * present).mean(1))
    return torch.stack(atoms, 1), features.mean((-2, -1))


def soft_tifa(atoms: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Soft-TIFA of GenEval 2 (https://arxiv.org/abs/2512.16853): over all atoms the arithmetic mean, and the mean over
    pictures of the geometric mean of their atoms."""
    geometric = [float(np.exp(np.log(np.maximum(picture, 1e-6)).mean())) for picture in atoms]
    return float(np.mean(np.concatenate([np.asarray(picture) for picture in atoms]))), float(np.mean(geometric))


def frechet(first: Tensor, second: Tensor) -> float:
    """The Fréchet distance of two sets of features [pictures, channels], taken as normal distributions.

    Heusel et al., NeurIPS 2017: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
    """
    means, covariances = zip(*((x.double().mean(0), torch.cov(x.double().T)) for x in (first, second)), strict=True)
    eigenvalues = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp_min(0)
    trace = sum(c.trace() for c in covariances) - 2 * eigenvalues.sqrt().sum()
    return float((means[0] - means[1]).square().sum() + trace)
