"""Make the results page: `python dev.py results`."""
from __future__ import annotations

from .. import host  # noqa: F401

# isort: split
import argparse
from pathlib import Path

from figures import DOCS, line, write

from ..loader import MODELS
from . import attention, excite, maps, regions, scfg, sega, worlds
from .page import FULL, QUICK, Table
from .pictures import trained
from .plots import save

EXPERIMENTS = {"worlds": worlds, "maps": maps, "scfg": scfg, "sega": sega, "excite": excite, "attention": attention,
               "regions": regions}
PAGE = "results.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py results", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="EXPERIMENT",
                        help=f"some of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=trained(MODELS), help="those with weights")
    parser.add_argument("--quick", action="store_true", help="with a few pictures, in about a minute")
    parser.add_argument("--output", type=Path, metavar="DIR", help="plots go there and tables are only printed")
    arguments = parser.parse_args()
    output = arguments.output or (Path("results") if arguments.quick else None)
    for name in arguments.only:
        for part in EXPERIMENTS[name].measure(arguments.model, QUICK if arguments.quick else FULL):
            if not isinstance(part, Table):
                save(part.figure, (output or DOCS / "images" / "results") / f"{part.name}.png")
                continue
            print(line(part.head) + "|---" * len(part.head) + "|\n" + "".join(map(line, part.rows)), flush=True)
            if output is None:
                write(PAGE, part.head, part.rows)


if __name__ == "__main__":
    main()
