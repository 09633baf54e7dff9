"""Our own nodes on one model, in every order."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from host import (
    attend_excite_runs,
    characteristic_runs,
    keep_apart_runs,
    regional_runs,
    scfg_runs,
    schedule_runs,
    sega_runs,
    strength_runs,
    tiny,
)
from host.scfg_runs import relative, run

from semantic_guidance.sampling.word_mask import word_maps


def with_scfg(model) -> tuple:
    return scfg_runs.with_regions(model)


def with_sega(model) -> tuple:
    return sega_runs.with_sega(model), None


def with_attend_excite(model) -> tuple:
    return attend_excite_runs.with_trace(model)


def with_schedule(model) -> tuple:
    return schedule_runs.scheduled(model), None


def with_regions(model) -> tuple:
    return regional_runs.in_regions(model), None


def with_keep_apart(model) -> tuple:
    return keep_apart_runs.kept_apart(model)[:2]


def with_characteristic(model) -> tuple:
    return characteristic_runs.characteristic(model, iterations=6, regularization=50.0, tolerance=2e-3), None


def with_strength(model) -> tuple:
    return strength_runs.strengthened(model)


NODES = [
    with_scfg, with_sega, with_attend_excite, with_schedule, with_regions, with_keep_apart, with_characteristic,
    with_strength,
]


def stacked(model, nodes) -> tuple:
    """The model with these nodes on it, one after the other, and the records of those that record."""
    records = []
    for node in nodes:
        model, record = node(model)
        records += [record] if record else []
    return model, records


def name(nodes) -> str:
    return "-".join(node.__name__.removeprefix("with_") for node in nodes)


@pytest.fixture(scope="module")
def alone(sd15) -> dict:
    return {node: run(node(sd15)[0]) for node in NODES}


@pytest.mark.parametrize("pair", list(permutations(NODES, 2)), ids=name)
def test_both_of_a_pair_act_in_either_order(sd15, alone, pair):
    model, records = stacked(sd15, pair)
    samples = run(model)
    assert torch.equal(run(model), samples)
    assert all(record.of(samples) for record in records)
    assert all(relative(alone[node], samples) > 1e-3 for node in pair)  # the other one matters
    first, other_order = (run(stacked(sd15, nodes)[0], steps=1) for nodes in (pair, pair[::-1]))
    assert relative(first, other_order) < 1e-5  # a sum in another order; later steps may choose another region for it


@pytest.mark.identity
@pytest.mark.parametrize("nodes", [*([node] for node in NODES), NODES, NODES[::-1]], ids=name)
def test_word_mask_looks_at_the_bare_model(sd15, nodes):
    def look(model):
        with torch.inference_mode():
            return word_maps(model, tiny.prompt(0), {"samples": latent.clone()}, ["#2"], 0.5, "as released")[0]

    latent = torch.randn((1, 4, *scfg_runs.SIZE), generator=torch.Generator().manual_seed(5))
    model, records = stacked(sd15, nodes)
    samples = run(model)
    bare, seen = look(sd15), look(model)
    assert torch.equal(seen.attention, bare.attention) and torch.equal(seen.share, bare.share)
    assert [len(record._runs) for record in records] == [1] * len(records)
    assert torch.equal(run(model), samples)
