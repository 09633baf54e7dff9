"""What does Attend-and-Excite mend, and what does it break? `python -m sticker_world.attend_excite_broken --help`.

Plain CFG, the node's defaults and gentler settings, on the same prompts and seeds: of the pictures that were right
without it, how many are not any more, and of those in which a subject was missing, how many have both. One prompt
after the other with all methods, so that what an interrupted run has printed can be compared as well.
"""
from __future__ import annotations

from . import host  # noqa: F401

# isort: split
import argparse
import time
from collections.abc import Sequence

from semantic_guidance.guidance.attend_excite import Excitation

from .attend_excite_claims import CHOOSING, REPORTING, Chosen, excited, pair_prompts, sign_test
from .attention_loss_claims import apart, moved
from .loader import load_sticker_world
from .results.attention import both, keep_apart
from .sampling import Method, Settings, plain
from .world import Outcome, Prompt, evaluate, wilson

SEARCH, PROOF = 7, 33  # seeds of the prompts on which settings were looked for, and of those that they are shown on


def excite(refinements: int = 20, enough: float = 1.0) -> Method:
    return excited(Chosen("", Excitation(max_refinements=refinements, enough=enough), colours=True))


SETTINGS = {
    "defaults, 20 refinements": excite(),
    "5 refinements": excite(5),
    "no refinements": excite(0),
    "5 refinements, enough 0.5": excite(5, 0.5),
    "no refinements, enough 0.5": excite(0, 0.5),
    "5 refinements + Keep Apart": both(excite(5), keep_apart(4.0)),
    "5 refinements, enough 0.5 + Keep Apart": both(excite(5, 0.5), keep_apart(4.0)),
    "5 refinements, overlap": moved(apart, missing=True),
    "5 refinements, overlap + Keep Apart": both(moved(apart, missing=True), keep_apart(4.0)),
}


def prompts_for(seed: int, pairs: int) -> list[Prompt]:
    """Pairs of each kind. Those for the proof are none that any setting was chosen on or reported with before."""
    before = [*pair_prompts(10, CHOOSING), *pair_prompts(10, REPORTING), *pair_prompts(10, SEARCH)]
    return pair_prompts(pairs, seed, before if seed == PROOF else ())


def share(hits: int, count: int) -> str:
    low, high = wilson(hits, count)
    return f"{hits} of {count} [{100 * low:.0f}, {100 * high:.0f}] %"


def row(name: str, before: Sequence[Outcome], after: Sequence[Outcome], seconds: float) -> str:
    right = [b.complete for b in before]
    now = [a.complete for a in after]
    mended = sum(a and not b for b, a in zip(right, now, strict=True))
    broken = sum(b and not a for b, a in zip(right, now, strict=True))
    cells = [name, share(sum(now), len(now)), f"{mended} of {len(right) - sum(right)}", share(broken, sum(right)),
             f"{sign_test(mended, broken):.3g}", f"{seconds:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="on the prompts on which settings are looked for")
    parser.add_argument("--pairs", type=int, default=8, help="prompts of each kind (%(default)s)")
    parser.add_argument("--seeds", type=int, default=4, help="pictures of each prompt (%(default)s)")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="besides plain CFG")
    args = parser.parse_args()
    world, settings = load_sticker_world(), Settings(steps=args.steps)
    prompts = prompts_for(SEARCH if args.search else PROOF, args.pairs)
    seeds = range(700, 700 + args.seeds) if args.search else range(900, 900 + args.seeds)
    methods: dict[str, Method] = {"plain CFG": plain}
    methods |= {name: SETTINGS[name] for name in args.settings}
    found: dict[str, list[Outcome]] = {name: [] for name in methods}
    taken = dict.fromkeys(methods, 0.0)
    for number, prompt in enumerate(prompts, 1):
        for name, method in methods.items():
            start = time.process_time()
            found[name] += evaluate(world, [prompt], seeds, settings, method)
            taken[name] += time.process_time() - start
        if number % 4 and number < len(prompts):
            continue
        print(f"\n{number} of {len(prompts)} prompts, {args.seeds} seeds, {args.steps} steps\n\n"
              "| setting | both present | mended | broken of those that were right | p | CPU time |\n"
              "|---|---|---|---|---|---|")
        for name, outcomes in found.items():
            print(row(name, found["plain CFG"], outcomes, taken[name] / taken["plain CFG"]), flush=True)


if __name__ == "__main__":
    main()
