"""Guidance inside attention: Word Strength and Keep Apart, also at cfg 1, beside Attend-and-Excite."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from semantic_guidance.guidance.attend_excite import Excitation
from semantic_guidance.nodes.keep_apart import SemanticGuidanceKeepApart
from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.nodes.word_strength import SemanticGuidanceWordStrength

from ..attend_excite_claims import Chosen, excited, pair_prompts, subjects
from ..loader import MODELS
from ..sampling import Method, Settings, plain
from ..world import Prompt
from .page import Plot, Plots, Section, Size, Table, Tables, bound, compared, complete, grouped, percent, share_of, tifa
from .pictures import Made, make
from .plots import bars

PROMPTS, SEEDS = 97, 900  # of nothing that settings were chosen on
STEPS = 12
CFGS = (1.0, 2.0, 5.0)
EMPHASES = {1.0: (2.0, 3.0, 4.0, 6.0), 5.0: (2.0, 4.0)}  # of each cfg
STRENGTHS = (0.5, 0.0, -1.0, -2.0)
AE = Chosen("A&E", Excitation(max_refinements=5), colours=True)
PLAIN = "plain"


def word_strength(strength: float, *, last: bool = False) -> Method:
    """Of all subjects with their colours, or of the last subject alone."""
    def method(model, clip, prompt):
        words = subjects(prompt, colours=True)
        conditioning = SemanticGuidancePrompt.execute(clip, prompt).result[0]
        result = SemanticGuidanceWordStrength.execute(
            model, conditioning, ", ".join(words[-1:] if last else words), strength, 0.0, 1.0, clip=clip,
        ).result
        return result[:2]

    return method


def keep_apart(emphasis: float) -> Method:
    def method(model, clip, prompt):
        words = ", ".join(subjects(prompt, colours=True))
        patched = SemanticGuidanceKeepApart.execute(model, words, 1.0, emphasis, 1.0, 0.7, "auto", 0.0, 1.0).result[0]
        return patched, SemanticGuidancePrompt.execute(clip, prompt).result[0]

    return method


def both(first: Method, second: Method) -> Method:
    def method(model, clip, prompt):
        return second(first(model, clip, prompt)[0], clip, prompt)

    return method


def methods(model: str) -> dict[str, Method]:
    found = {PLAIN: plain, "Word Strength 4": word_strength(4.0), "Keep Apart": keep_apart(1.0),
             "Keep Apart, emphasis 4": keep_apart(4.0)}
    if model != "cross":  # it has no gradient
        found |= {"A&E": excited(AE), "A&E + Keep Apart, 4": both(excited(AE), keep_apart(4.0))}
    return found


def row(name: str, base: Made, made: Made) -> list[str]:
    return [name, *compared(base, made, complete), *compared(base, made, bound), *tifa(made),
            f"{made.seconds / base.seconds:.2f}"]


def head(title: str) -> list[str]:
    return [title, "both present, %", "mended / broken", "points", "p", "colours too, %", "mended / broken", "points",
            "p", "atoms", "prompts", "time"]


def title(model: str) -> str:
    return f"inside attention, {model}"


def plots(tables: Tables) -> Plots:
    groups = [f"cfg {cfg:g}" for cfg in CFGS]
    for model in (model for model in MODELS if title(model) in tables):
        shares = grouped(tables[title(model)], groups, "colours too, %")
        yield Plot(f"attention_{model}", bars(f"{model}: both subjects, in the colours asked for", groups, shares))


def measure(models: list[str], size: Size) -> Section:
    prompts = size.some(pair_prompts(max(size.prompts - 4, 1), PROMPTS))
    seeds = range(SEEDS, SEEDS + max(size.seeds - 1, 1))
    yield from _each_cfg(models, prompts, seeds, size)
    yield from _few_steps(models, prompts, seeds, size)
    yield from _emphases(models, prompts, seeds, size)
    yield from _below_one(models, prompts, seeds, size)


def _run(model: str, name: str, method: Method, prompts: Sequence[Prompt], seeds: Sequence[int], settings: Settings):
    return make(model, f"attention, {name}", method, prompts, seeds, settings)


def _each_cfg(models: list[str], prompts: Sequence[Prompt], seeds: Sequence[int], size: Size) -> Section:
    for model in models:
        rows = []
        for cfg in CFGS:
            settings = size.settings(model, STEPS, cfg=cfg)
            made = {name: _run(model, name, method, prompts, seeds, settings)
                    for name, method in methods(model).items()}
            rows += [row(f"cfg {cfg:g}, {name}", made[PLAIN], one) for name, one in made.items()]
        yield Table(head(title(model)), rows)


def _few_steps(models: list[str], prompts: Sequence[Prompt], seeds: Sequence[int], size: Size) -> Section:
    rows = []
    for model in models:
        settings = size.settings(model, 4, cfg=1.0)
        made = {name: _run(model, name, method, prompts, seeds, settings)
                for name, method in methods(model).items() if "A&E" not in name}
        rows += [row(f"{model}, {name}", made[PLAIN], one) for name, one in made.items()]
    yield Table(head("4 steps, cfg 1"), rows)


def _emphases(models: list[str], prompts: Sequence[Prompt], seeds: Sequence[int], size: Size) -> Section:
    rows = []
    for model, cfg in product(models, EMPHASES):
        settings = size.settings(model, STEPS, cfg=cfg)
        base = _run(model, PLAIN, plain, prompts, seeds, settings)
        for emphasis in EMPHASES[cfg]:
            made = _run(model, f"Keep Apart, emphasis {emphasis:g}", keep_apart(emphasis), prompts, seeds, settings)
            rows.append(row(f"{model}, cfg {cfg:g}, {emphasis:g}", base, made))
    yield Table(head("Keep Apart's emphasis"), rows)


def _below_one(models: list[str], prompts: Sequence[Prompt], seeds: Sequence[int], size: Size) -> Section:
    """Of the pictures in which plain CFG shows both subjects: whether the last one is gone, and the first one there."""
    rows = []
    for model in models:
        settings = size.settings(model, STEPS)
        base = _run(model, PLAIN, plain, prompts, seeds, settings)
        shown = [number for number, picture in enumerate(base.pictures) if picture.complete]
        for strength in STRENGTHS:
            name = f"strength {strength:g} of the last"
            made = _run(model, name, word_strength(strength, last=True), prompts, seeds, settings)
            pictures = [made.pictures[number] for number in shown]
            gone = [not picture.verdict.has(picture.prompt.things[-1][0]) for picture in pictures]
            kept = [picture.verdict.has(picture.prompt.things[0][0]) for picture in pictures]
            rows.append([f"{model}, {strength:g}", str(len(shown)), percent(share_of(gone)), percent(share_of(kept))])
    yield Table(["Word Strength of the last subject, cfg 5", "pictures", "gone, %", "the other kept, %"], rows)
