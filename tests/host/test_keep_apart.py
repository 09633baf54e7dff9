"""Keep Apart on UNets: against the same written plainly, its identities, its record and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from host import company, test_company, test_conds, tiny
from host.edits import calls_of, overridden
from host.keep_apart_runs import kept_apart, traced, with_apart
from host.scfg_runs import SIZE, relative, run
from host.test_company import replaced
from host.waits import per_evaluation

from semantic_guidance.guidance.smoothing import smooth
from semantic_guidance.nodes.attention_curves import SemanticGuidanceAttentionCurves
from semantic_guidance.nodes.region_preview import SemanticGuidanceRegionPreview
from semantic_guidance.sampling.keep_apart import run as apart_run
from semantic_guidance.words.prompt import CONDITIONING_KEY, PromptWords, Word

COLUMNS = [(5,), (20,)]


class Plainly:
    """The method at cfg 1, as one override that computes every softmax itself, in float64."""

    def __init__(self, strength: float, emphasis: float, memory: float = 0.7, threshold: float = 0.5):
        self.strength, self.emphasis, self.memory, self.threshold = strength, emphasis, memory, threshold
        self.running = self.owners = None
        self.seen = []

    def next_step(self, *args):
        if self.seen:
            maps = torch.stack(self.seen).mean(0)
            self.running = maps if self.running is None else self.memory * self.running + (1 - self.memory) * maps
            blurred = smooth(self.running)
            z = (blurred - blurred.mean((-2, -1), keepdim=True)) / blurred.std((-2, -1), keepdim=True, correction=0)
            self.owners = F.one_hot(z.argmax(1), 2).movedim(-1, 1) * (z.amax(1, keepdim=True) > self.threshold)
        self.seen = []

    def __call__(self, func, q, k, v, heads, *args, **kwargs):
        if k.shape[1] != 77:
            return func(q, k, v, heads, *args, **kwargs)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        cells = round((SIZE[0] * SIZE[1] / q.shape[2]) ** 0.5)
        grid = (SIZE[0] // cells, SIZE[1] // cells)
        if cells == 1:
            p = scores.softmax(-1).mean(1)
            self.seen.append(torch.stack([p[..., columns].sum(-1).unflatten(1, grid) for columns in COLUMNS], 1))
        weights = torch.ones(len(q), q.shape[2], 77, dtype=q.dtype)
        for subject, columns in enumerate(COLUMNS):
            weights[..., columns] *= self.emphasis
            if self.owners is not None:
                others = F.avg_pool2d(self.owners[:, [1 - subject]].to(q), cells).flatten(2)[:, 0]
                weights[..., columns] *= (1 - self.strength * others)[..., None]
        return ((scores + weights.log()[:, None]).softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("strength", "emphasis"), [(1.0, 1.0), (1.0, 2.0), (0.6, 2.5)])
def test_it_is_the_method_written_plainly(monkeypatch, sd15, strength, emphasis):
    monkeypatch.setattr(apart_run, "FEW", 0)
    plainly = Plainly(strength, emphasis)
    model = overridden(sd15, plainly)
    model.add_wrapper_with_key("predict_noise", "test", lambda executor, *args, **kwargs: (
        plainly.next_step(), executor(*args, **kwargs))[1])
    expected = run(model, cfg=1.0, steps=3)
    samples = run(with_apart(sd15, strength=strength, emphasis=emphasis), cfg=1.0, steps=3)
    assert plainly.owners.any(dim=(0, 2, 3)).all()
    assert relative(samples, expected) < 1e-5
    assert relative(samples, run(sd15, cfg=1.0, steps=3)) > 1e-3


@pytest.mark.identity
def test_the_host_alone_at_strength_0_and_emphasis_1_and_outside_of_its_range(sd15):
    plain = run(sd15)
    assert torch.equal(run(with_apart(sd15, strength=0.0, emphasis=1.0)), plain)
    assert torch.equal(run(with_apart(sd15, start_percent=0.6, end_percent=0.5)), plain)
    model = with_apart(sd15)
    assert torch.equal(run(model), run(model)) and not torch.equal(run(model), plain)


def test_a_run_of_few_steps_acts_within_its_first(monkeypatch, sd15):
    def acted(steps):
        """In each step, whether owners have a say."""
        _, trace = traced(sd15, {"emphasis": 1.0}, steps=steps, cfg=1.0)
        return [step.acted for step in trace.steps]

    assert acted(2) == [True, True]
    monkeypatch.setattr(apart_run, "FEW", 1)
    assert acted(2) == [False, True]
    assert relative(run(with_apart(sd15, emphasis=1.0), steps=1, cfg=1.0), run(sd15, steps=1, cfg=1.0)) > 1e-4


def test_the_record_is_drawn_by_both_previews(sd15, caplog):
    model, attention, regions = kept_apart(sd15, words="#5, #20, #31")
    caplog.set_level("INFO")
    samples = run(model, batch=2)
    trace = attention.of(samples)
    assert trace.steps[-1].maps.shape[:2] == (2, 3) and trace.acted == trace.layers == 16
    assert abs(float(trace.shares.sum()) - 1) < 1e-5
    assert "Keep Apart: #5 " in caplog.text and "acted in 16 of 16 layers, steps 1-2 of 2." in caplog.text
    curves, maps = SemanticGuidanceAttentionCurves.execute(attention, {"samples": samples}).result
    assert len(curves) == 2 and len(maps) == 6
    pictures, masks, rates = SemanticGuidanceRegionPreview.execute(regions, {"samples": samples}).result
    assert len(pictures) == 2 and len(rates) == 2 and masks.shape[0] % 2 == 0
    with pytest.raises(ValueError, match="this Keep Apart node returned"):
        attention.of(samples + 1)


def test_a_subject_without_a_place_is_named_with_the_way_out(sd15, caplog):
    run(with_apart(sd15, words="#5, #20", threshold=3.0, start_percent=0.0), steps=1, cfg=1.0, size=(8, 8))
    assert 'owns no place at any step' in caplog.text and "use Attend-and-Excite" in caplog.text


@pytest.mark.parametrize(("words", "message"), [
    ("", "Keep Apart: no subjects are named"),
    ("#5", 'Keep Apart: "#5" is the only subject'),
    ("cat, cat", 'Keep Apart: "cat" is the only subject'),
    ("red balloon, balloon", '"red balloon" and "balloon" name the same word'),
    ("cat, dragon", '"dragon" is not in the prompt'),
])
def test_words_that_cannot_be_kept_apart_are_refused(sd15, words, message):
    texts = ("a", "cat", "red", "balloon")
    named = PromptWords(tuple(Word(text, (1 + n,)) for n, text in enumerate(texts)), 77)
    with pytest.raises(ValueError, match=message):
        run(with_apart(sd15, words=words), positive=tiny.prompt(0, **{CONDITIONING_KEY: named}))


def test_prompts_without_words_and_models_that_double_their_text_are_refused(sd15):
    with pytest.raises(ValueError, match='Encode it with the "Prompt with Words" node'):
        run(with_apart(sd15, words="cat, dog"))
    model = with_apart(sd15)
    model.model_options["ppm_negpip"] = True
    with pytest.raises(ValueError, match="Keep Apart: NegPip"):
        run(model)


def test_layers_that_another_node_replaces_are_counted(sd15, caplog):
    model = replaced(sd15, [("input", 7), ("middle", 0), ("output", 11)])
    samples = run(with_apart(model))
    assert relative(samples, run(model)) > 1e-4
    assert "acts in 13 of 16 layers" in caplog.text


def test_every_image_of_a_batch_has_its_own_owners(sd15):
    model, noise = with_apart(sd15), torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    both = run(model, batch=2, noise=noise)
    for image in range(2):
        assert relative(both[image : image + 1], run(model, noise=noise[image : image + 1])) < tiny.EXACT


def test_prompts_in_areas_and_masks_each_have_their_owners(monkeypatch, sd15):
    for arrangement in ("areas", "overlapping masks", "one has ended"):
        options = dict(positive=test_conds.ARRANGED[arrangement]())
        model, record, _ = kept_apart(sd15)
        joint = run(model, **options)
        assert record.of(joint).steps[-1].owner.shape == (1, *SIZE)
        assert relative(run(test_conds.separately(monkeypatch, model), **options), joint) < tiny.EXACT
        assert relative(run(sd15, **options), joint) > 1e-4


def test_what_it_costs_in_calls_of_attention(sd15):
    """Once a layer's cross-attention three times, its text's group alone being no call; nothing for self-attention."""
    def counted(model):
        calls = []
        run(calls_of(model, calls), cfg=1.0, steps=2)
        return [queries for queries, keys, _ in calls if keys > 60 and queries != keys], len(calls)

    plain, plain_calls = counted(sd15)
    layers = len(plain) // 2
    _, apart = counted(with_apart(sd15, strength=0.0))
    assert apart == plain_calls + layers  # a foreign override is asked once whether it is an average
    _, apart = counted(with_apart(sd15, emphasis=1.0))
    assert apart <= 2 * layers + 2 * 2 * layers + layers


@pytest.mark.parametrize("divided", [
    lambda model: test_company.with_windows(model), lambda model: test_company.with_windows(model, dim=3),
    company.in_tiles,
])
def test_what_divides_the_picture_or_the_batch_is_refused(sd15, divided):
    with pytest.raises(ValueError, match="Keep Apart: the model was called for .* of a latent of 16 x 24"):
        run(with_apart(divided(sd15)), batch=4, steps=1)


def test_beside_nodes_that_take_attention_over_or_spare_calls_of_the_model(sd15, caplog):
    couple = company.AttentionCouple().patch(sd15, tiny.prompt(5))
    assert torch.equal(run(with_apart(couple)), run(couple))
    assert "nothing was kept apart" in caplog.text and "another node replaces every attention layer" in caplog.text
    cached, record, _ = kept_apart(test_company.with_easycache(sd15))
    samples = run(cached, steps=5)
    assert 1 <= len(record.of(samples).steps) < 5
    assert relative(samples, run(test_company.with_easycache(sd15), steps=5)) > 1e-4


def test_a_compiled_model_runs_uncompiled_where_it_acts(sd15, caplog):
    model, graphs = company.compiled_without_guards(sd15)
    assert relative(run(model), run(sd15)) < tiny.EXACT and graphs
    assert relative(run(with_apart(model)), run(with_apart(sd15))) < tiny.EXACT
    assert "runs uncompiled" in caplog.text
    torch.compiler.reset()


def test_weights_that_stay_behind_change_nothing(monkeypatch, sd15):
    model = tiny.loaded_in_part(monkeypatch, with_apart(tiny.sd15()))
    samples = run(model)
    assert model.model.model_lowvram
    assert relative(samples, run(with_apart(sd15))) < tiny.EXACT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_in_the_hosts_own_precisions(dtype):
    model = tiny.sd15(dtype=dtype)
    apart = with_apart(model)
    samples = run(apart)
    assert samples.isfinite().all() and torch.equal(run(apart), samples)
    assert relative(samples, run(model)) > 1e-4


def test_a_gpu_is_waited_for_once_a_step(monkeypatch, sd15):
    monkeypatch.setattr(apart_run, "FEW", 0)
    model, found = per_evaluation(with_apart(sd15))
    run(model, steps=3)
    assert [sum(waits.values()) for waits in found] == [1, 1, 1], found
