"""SEGA's claims in Sticker World: `python -m sticker_world.sega_claims`. Prints tables in Markdown.

Edits are made on pictures of plain CFG with the same prompts and seeds, by SEGA at several scales and by writing the
edit into the prompt. Success is the judge's; `elsewhere` is the mean absolute change of pixels (0..255) outside the
boxes of the edited stickers in both pictures. Brackets are 95 % intervals: Wilson's for shares, bootstrap for means.
"""
from __future__ import annotations

from . import host  # noqa: F401

# isort: split
import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from figures import line
from torch import Tensor

from semantic_guidance.guidance.sega import Edit, Momentum
from semantic_guidance.sampling.sega.concepts import Concept
from semantic_guidance.sampling.sega.run import patch_sega

from .judge import Verdict, judge
from .loader import load_sticker_world
from .sampling import Settings, encode, generate
from .scenes import ANIMALS, OBJECTS, SIDE, allowed_colours, caption, phrase
from .world import wilson

Thing = tuple[str, str | None]
SCALES = (2.5, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Change:
    """One edit: the concept's words, the direction, the sticker that it is about, and what shows that it worked."""

    words: str
    remove: bool
    noun: str
    done: Callable[[Verdict], bool]


@dataclass(frozen=True)
class Task:
    """A picture's prompt, its edits, the prompt that says the same, and the stickers that shall stay."""

    kind: str
    prompt: str
    changes: tuple[Change, ...]
    rewritten: str
    stays: tuple[str, ...]

    def success(self, verdict: Verdict) -> bool:
        return all(change.done(verdict) for change in self.changes)

    def intact(self, verdict: Verdict) -> bool:
        return all(verdict.has(noun) for noun in self.stays)


def add(noun: str, colour: str | None = None) -> Change:
    return Change(phrase(noun, colour), False, noun, lambda verdict: verdict.has(noun, colour))


def remove(noun: str) -> Change:
    return Change(phrase(noun), True, noun, lambda verdict: not verdict.has(noun))


def tasks(count: int, seed: int = 4) -> list[Task]:
    """`count` tasks of every kind."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        animal, other = rng.sample(ANIMALS, 2)
        thing, more = rng.sample(OBJECTS, 2)
        colour, colour_of_more = rng.choice(allowed_colours(thing)), rng.choice(allowed_colours(more))
        alone, pair = caption([(thing, None)]), caption([(animal, None), (thing, None)])
        recolour, second = add(thing, colour), add(more, colour_of_more)
        made += [
            Task("recolour", alone, (recolour,), caption([(thing, colour)]), (thing,)),
            Task("add", caption([(animal, None)]), (add(thing, colour),), caption([(animal, None), (thing, colour)]),
                 (animal,)),
            Task("remove", pair, (remove(thing),), caption([(animal, None)]), (animal,)),
            Task("two edits", pair, (recolour, remove(animal)), caption([(thing, colour)]), (thing,)),
            Task("three edits", pair, (recolour, remove(animal), second),
                 caption([(thing, colour), (more, colour_of_more)]), (thing,)),
        ]
    return made


def sega(task: Task, edit: Edit, warmup: float):
    """A method of sampling.generate."""
    def method(model, clip, prompt):
        concepts = tuple(
            Concept(encode(clip, change.words), replace(edit, remove=change.remove), warmup) for change in task.changes
        )
        return patch_sega(model, concepts, Momentum()), encode(clip, prompt)

    return method


def elsewhere(task: Task, before: Tensor, after: Tensor, verdicts: tuple[Verdict, Verdict]) -> float:
    """Mean absolute change outside the boxes of the edited stickers; images [128, 128, 3] in 0..1."""
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    nouns = {change.noun for change in task.changes}
    for found in [*verdicts[0].found, *verdicts[1].found]:
        if found.noun in nouns:
            left, top, right, bottom = found.box
            outside[top:bottom, left:right] = False
    change = (after - before).abs().mean(dim=-1)[outside] * 255
    return float(change.mean()) if outside.any() else 0.0


@dataclass
class Cell:
    """Results of one way of editing on one kind of task."""

    success: list[bool]
    intact: list[bool]
    elsewhere: list[float]

    def row(self) -> list[str]:
        return [_share(self.success), _share(self.intact), _mean(self.elsewhere)]


def _share(flags: list[bool]) -> str:
    low, high = wilson(sum(flags), len(flags))
    return f"{sum(flags)}/{len(flags)} = {sum(flags) / max(len(flags), 1):.2f} [{low:.2f}, {high:.2f}]"


def _mean(values: list[float]) -> str:
    if not values:
        return "-"
    data = torch.tensor(values)
    draws = data[torch.randint(len(data), (2000, len(data)), generator=torch.Generator().manual_seed(0))].mean(dim=1)
    low, high = draws.quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{data.mean():.1f} [{low:.1f}, {high:.1f}]"


def measure(
    world: tuple, chosen: Sequence[Task], seeds: Sequence[int], scales: Sequence[float], edit: Edit, warmup: float,
    settings: Settings | None = None,
) -> dict[str, Cell]:
    """Every way of editing on tasks of one kind. Only pictures that show what the prompt names are edited."""
    cells: dict[str, Cell] = {}
    settings = settings or Settings()
    for task in chosen:
        before = generate(world, task.prompt, seeds, settings)
        seen = judge(before)
        named = {*task.stays, *(change.noun for change in task.changes if change.noun in task.prompt.split())}
        kept = [i for i, verdict in enumerate(seen) if all(verdict.has(n) for n in named) and not task.success(verdict)]
        if not kept:
            continue
        ways = {"prompt rewritten": generate(world, task.rewritten, [seeds[i] for i in kept], settings)}
        for scale in scales:
            method = sega(task, replace(edit, edit_scale=scale), warmup)
            ways[f"SEGA, scale {scale:g}"] = generate(world, task.prompt, [seeds[i] for i in kept], settings, method)
        for name, pictures in ways.items():
            cell = cells.setdefault(name, Cell([], [], []))
            for i, picture, verdict in zip(kept, pictures, judge(pictures), strict=True):
                cell.success.append(task.success(verdict))
                cell.intact.append(task.intact(verdict))
                cell.elsewhere.append(elsewhere(task, before[i], picture, (seen[i], verdict)))
    return cells


def carried_over(world: tuple, seeds: Sequence[int], scale: float, count: int = 6, seed: int = 5) -> Cell:
    """Edits "a red balloon" computed while "a balloon" is drawn, step by step, and added while "a car" is."""
    rng = random.Random(seed)
    settings, cell = Settings(), Cell([], [], [])
    for _ in range(count):
        source, target = rng.sample(OBJECTS, 2)
        colour = rng.choice([one for one in allowed_colours(source) if one in allowed_colours(target)])
        change = add(source, colour)
        task = Task("", phrase(source), (change,), "", ())
        edits = record_edits(world, task, seeds, settings, scale)
        before = generate(world, phrase(target), seeds, settings)
        after = generate(world, phrase(target), seeds, settings, replay(edits))
        goal = add(target, colour)
        for image, picture, seen, verdict in zip(before, after, judge(before), judge(after), strict=True):
            if seen.has(target) and not goal.done(seen):
                cell.success.append(goal.done(verdict))
                cell.intact.append(verdict.has(target))
                cell.elsewhere.append(
                    elsewhere(replace(task, changes=(goal,)), image, picture, (seen, verdict))
                )
    return cell


def record_edits(world: tuple, task: Task, seeds: Sequence[int], settings: Settings, scale: float) -> list[Tensor]:
    """What SEGA adds to the denoised prediction at each step."""
    seen: list[Tensor] = []

    def note(args: dict) -> Tensor:
        seen.append(args["denoised"].clone())
        return args["denoised"]

    def method(model, clip, prompt):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(note)
        model, positive = sega(task, Edit(edit_scale=scale), Concept.warmup)(model, clip, prompt)
        model.set_model_sampler_post_cfg_function(note)
        return model, positive

    generate(world, task.prompt, seeds, settings, method)
    return [after - before for before, after in zip(seen[::2], seen[1::2], strict=True)]


def replay(edits: list[Tensor]):
    """A method of sampling.generate that adds one of `edits` at each step."""
    remaining = iter(edits)

    def method(model, clip, prompt):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + next(remaining))
        return model, encode(clip, prompt)

    return method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10, help="prompts of every kind (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="pictures of every prompt (%(default)s)")
    parser.add_argument("--kinds", nargs="+", default=["recolour", "add", "remove", "two edits", "three edits"])
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES))
    parser.add_argument("--threshold", type=float, default=Edit.threshold)
    parser.add_argument("--warmup", type=float, default=Concept.warmup, help="percent of the noise schedule")
    parser.add_argument("--uniqueness", action="store_true", help="carry edits over to other prompts, and nothing else")
    parser.add_argument("--minutes", type=float, help="stop after the kind during which this time has passed")
    args = parser.parse_args()
    started = time.monotonic()
    world, every = load_sticker_world(), tasks(args.tasks)
    print(f"threshold {args.threshold:g}, warm-up {args.warmup:g} %, {args.tasks} prompts x {args.seeds} seeds")
    if args.uniqueness:
        print("\n| carried over to another object | success | object still there | change elsewhere |")
        print("|---|---|---|---|")
        for scale in args.scales:
            cell = carried_over(world, range(args.seeds), scale)
            print(line([f"SEGA, scale {scale:g}", *cell.row()]), end="", flush=True)
        return
    for kind in args.kinds:
        chosen = [task for task in every if task.kind == kind]
        cells = measure(world, chosen, range(args.seeds), args.scales, Edit(threshold=args.threshold), args.warmup)
        print(f"\n| {kind} | success | rest still there | change elsewhere |\n|---|---|---|---|")
        print("".join(line([name, *cell.row()]) for name, cell in cells.items()), end="", flush=True)
        if args.minutes and time.monotonic() - started > 60 * args.minutes:
            break


if __name__ == "__main__":
    main()
