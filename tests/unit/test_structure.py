"""Bound phrases against the paper's mean over aligned sequences."""

from __future__ import annotations

import torch

from semantic_guidance.guidance.structure import mean_values


def test_the_values_are_the_mean_over_aligned_sequences():
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randn(1, 9, 4, generator=generator, dtype=torch.float64)
    phrases = [((1, 2), torch.randn(1, 2, 4, generator=generator, dtype=torch.float64)),
               ((2, 5, 6), torch.randn(1, 3, 4, generator=generator, dtype=torch.float64))]
    sequences = [prompt]
    for columns, own in phrases:
        aligned = prompt.clone()
        for place, column in enumerate(columns):
            aligned[0, column] = own[0, place]
        sequences.append(aligned)
    torch.testing.assert_close(mean_values(prompt, phrases), torch.stack(sequences).mean(dim=0))

    query, key = (torch.randn(1, size, 4, generator=generator, dtype=torch.float64) for size in (5, 9))
    attention = (query @ key.mT).softmax(dim=-1)
    outputs = torch.stack([attention @ values for values in sequences]).mean(dim=0)
    torch.testing.assert_close(attention @ mean_values(prompt, phrases), outputs)


def test_columns_of_no_phrase_stay_as_they_are():
    prompt = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(0))
    values = mean_values(prompt, [((3, 4), torch.ones(1, 2, 4))])
    kept = [column for column in range(9) if column not in (3, 4)]
    assert torch.equal(values[:, kept], prompt[:, kept]) and not torch.equal(values, prompt)
    assert torch.equal(mean_values(prompt, []), prompt)
