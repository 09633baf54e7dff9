"""Does Attend-and-Excite leave fewer subjects out in Sticker World? `python -m sticker_world.attend_excite_claims`.

Settings are chosen on one set of prompts and reported on another, with the same seeds for every method. "Same compute"
is plain CFG with as many steps more as Attend-and-Excite takes CPU time. Prints tables in Markdown.
"""
from __future__ import annotations

from . import host  # noqa: F401

# isort: split
import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from math import comb, sqrt
from typing import NamedTuple

from semantic_guidance.guidance.attend_excite import Excitation
from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.sampling.attend_excite import run as attend_excite
from semantic_guidance.sampling.scfg import run as scfg

from .loader import load_sticker_world
from .sampling import Method, Settings, plain
from .world import Outcome, Prompt, benchmark_prompts, evaluate, wilson

CHOOSING, REPORTING = 1001, 20  # seeds of the two sets of prompts


def subjects(prompt: str, *, colours: bool) -> tuple[str, ...]:
    """"a cat and a red balloon" -> cat and balloon, or red balloon."""
    phrases = [phrase.split(" ", 1)[1] for phrase in prompt.split(" and ")]
    return tuple(phrases if colours else [phrase.split(" ")[-1] for phrase in phrases])


class Chosen(NamedTuple):
    name: str
    excitation: Excitation
    colours: bool = False  # whether the colour belongs to the subject's words


def excited(chosen: Chosen, with_scfg: bool = False) -> Method:
    def method(model, clip, prompt):
        settings = attend_excite.Settings(subjects(prompt, colours=chosen.colours), chosen.excitation)
        model, _ = attend_excite.patch_attend_excite(model, settings)
        if with_scfg:
            model, _ = scfg.patch_scfg(model, scfg.Settings())
        return model, SemanticGuidancePrompt.execute(clip, prompt).result[0]

    return method


def choose(world, prompts: Sequence[Prompt], seeds: Sequence[int], settings: Settings) -> tuple[Chosen, float]:
    """The candidate with most pictures in which both are present, and its CPU time relative to plain CFG."""
    grid = ((20, 0.1, 0, False), (20, 0.1, 5, False), (20, 0.05, 5, False), (20, 0.1, 5, True), (20, 0.1, 20, False))
    candidates = [
        Chosen(
            f"scale {scale:g}, longest move {limit:g}, {refinements} refinements{', with colours' if colours else ''}",
            Excitation(scale_factor=scale, limit=limit, max_refinements=refinements), colours,
        )
        for scale, limit, refinements, colours in grid
    ]
    outcomes, plain_time = timed(world, prompts, seeds, settings, plain)
    print(f"Choosing on {len(prompts)} prompts, {len(seeds)} seeds.\n\n| setting | both present | CPU time |\n"
          f"|---|---|---|\n| plain CFG | {sum(o.complete for o in outcomes)} of {len(outcomes)} | 1 |", flush=True)
    found = []
    for candidate in candidates:
        outcomes, taken = timed(world, prompts, seeds, settings, excited(candidate))
        hits, ratio = sum(o.complete for o in outcomes), taken / plain_time
        print(f"| {candidate.name} | {hits} of {len(outcomes)} | {ratio:.2f} |", flush=True)
        found.append((hits, -ratio, candidate))
    _, ratio, best = max(found, key=lambda item: item[:2])
    return best, -ratio


def timed(world, prompts: Sequence[Prompt], seeds: Sequence[int], settings: Settings, method: Method):
    start = time.process_time()
    outcomes = evaluate(world, prompts, seeds, settings, method)
    return outcomes, time.process_time() - start


def bound(outcome: Outcome) -> bool:
    """Every subject is there, in the colour asked for."""
    return all(outcome.verdict.has(*thing) for thing in outcome.prompt.things)


def sign_test(fixed: int, broken: int) -> float:
    """Two-sided exact probability of a split at least as uneven, if fixing and breaking were equally likely."""
    n, k = fixed + broken, min(fixed, broken)
    return min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)


def paired(before: list[bool], after: list[bool]) -> list[str]:
    """Fixed and broken pictures, the difference of the shares with its 95 % interval, and the sign test."""
    fixed = sum(b and not a for a, b in zip(before, after, strict=True))
    broken = sum(a and not b for a, b in zip(before, after, strict=True))
    n = len(before)
    difference = (fixed - broken) / n
    half = 1.96 * sqrt(max(fixed + broken - (fixed - broken) ** 2 / n, 0)) / n
    low, high = 100 * (difference - half), 100 * (difference + half)
    points = f"{100 * difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    return [f"{fixed} / {broken}", points, f"{sign_test(fixed, broken):.3g}"]


def table(results: dict[str, list[Outcome]]) -> None:
    base = results["plain CFG"]
    groups = [*dict.fromkeys(outcome.prompt.group for outcome in base), "all"]
    for title, test in (("Both present", Outcome.complete.fget), ("Both present, colours as asked", bound)):
        print(f"\n### {title}\n\n| prompts | method | share [95 %] | fixed / broken | points [95 %] | p |\n"
              "|---|---|---|---|---|---|")
        for group in groups:
            before = [test(o) for o in base if group in (o.prompt.group, "all")]
            for name, outcomes in results.items():
                flags = [test(o) for o in outcomes if group in (o.prompt.group, "all")]
                low, high = wilson(sum(flags), len(flags))
                share = f"{100 * sum(flags) / len(flags):.1f} % of {len(flags)} [{100 * low:.1f}, {100 * high:.1f}]"
                beside = ["-", "-", "-"] if outcomes is base else paired(before, flags)
                print(f"| {group} | {name} | {share} | {' | '.join(beside)} |")


def pair_prompts(pairs: int, seed: int, without: Sequence[Prompt] = ()) -> list[Prompt]:
    known = {prompt.text for prompt in without}
    return [p for p in benchmark_prompts(pairs, seed) if p.group != "single" and p.text not in known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10, help="prompts of each kind to report on (%(default)s)")
    parser.add_argument("--seeds", type=int, default=4, help="pictures of each prompt (%(default)s)")
    parser.add_argument("--choose-pairs", type=int, default=4, help="prompts of each kind to choose on (%(default)s)")
    parser.add_argument("--refinements", type=int, help="do not choose: the paper's settings, with this many at most")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--cfg", type=float, default=Settings.cfg)
    args = parser.parse_args()
    world, settings = load_sticker_world(), Settings(steps=args.steps, cfg=args.cfg)

    choosing = pair_prompts(args.choose_pairs, CHOOSING)
    if args.refinements is None:
        chosen, ratio = choose(world, choosing, range(500, 500 + args.seeds), settings)
    else:
        chosen = Chosen(f"the paper's, {args.refinements} refinements", Excitation(max_refinements=args.refinements))
        _, plain_time = timed(world, choosing[:2], range(2), settings, plain)
        ratio = timed(world, choosing[:2], range(2), settings, excited(chosen))[1] / plain_time

    reporting = pair_prompts(args.pairs, REPORTING, choosing)
    more = replace(settings, steps=round(args.steps * ratio))
    runs = {
        "plain CFG": (settings, plain),
        f"plain CFG, {more.steps} steps (same compute)": (more, plain),
        "A&E": (settings, excited(chosen)),
        "A&E + S-CFG": (settings, excited(chosen, with_scfg=True)),
    }
    print(f"\nA&E: {chosen.name}. {len(reporting)} other prompts, {args.seeds} seeds, {args.steps} steps, "
          f"cfg {args.cfg:g}.", flush=True)
    results, times = {}, {}
    for name, (run_settings, method) in runs.items():
        results[name], times[name] = timed(world, reporting, range(args.seeds), run_settings, method)
    table(results)
    print("\nCPU time, relative to plain CFG: "
          + ", ".join(f"{name} {taken / times['plain CFG']:.2f}" for name, taken in times.items()))


if __name__ == "__main__":
    main()
