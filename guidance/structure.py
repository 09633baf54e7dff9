"""Phrases with values of their own: Feng et al., "Training-Free Structured Diffusion Guidance for Compositional
Text-to-Image Synthesis", ICLR 2023, https://arxiv.org/abs/2212.05032.

Each phrase is encoded by itself as well, and laid into the prompt's encoding in its place: one more sequence of values
for the same keys. Attention is linear in its values, so the mean of its outputs over all sequences is its output for
their mean, and costs no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor


def mean_values(prompt: Tensor, phrases: Iterable[tuple[Sequence[int], Tensor]]) -> Tensor:
    """The mean of the prompt's encoding [1, N, C] and, for each phrase, the same with the phrase's own tokens in it.

    phrases: the columns of each in the prompt, and its encoding by itself [1, columns, C]. They may overlap.
    """
    phrases = list(phrases)
    mean = prompt.clone()
    for columns, own in phrases:
        mean[:, list(columns)] += (own - prompt[:, list(columns)]) / (1 + len(phrases))
    return mean
