"""Make the results page: `python dev.py results`."""
from __future__ import annotations

from .. import host  # noqa: F401

# isort: split
import argparse
from pathlib import Path

import torch
from figures import DOCS, line, merge, titled

from ..loader import MODELS
from . import attention, excite, maps, regions, scfg, sega, worlds
from .page import FULL, QUICK
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
    torch.set_float32_matmul_precision("medium")  # products in bf16, where the CPU has them: 1.3 times as fast
    output = arguments.output or (Path("results") if arguments.quick else None)
    for name in arguments.only:
        measured = {}
        for table in EXPERIMENTS[name].measure(arguments.model, QUICK if arguments.quick else FULL):
            print(line(table.head) + "|---" * len(table.head) + "|\n" + "".join(map(line, table.rows)), flush=True)
            measured |= table.titled()
            if output is None:
                merge(PAGE, table.head, table.rows)
        for plot in EXPERIMENTS[name].plots(titled(PAGE) if output is None else measured):
            save(plot.figure, (output or DOCS / "images" / "results") / f"{plot.name}.png")


if __name__ == "__main__":
    main()
