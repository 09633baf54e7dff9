"""What an experiment hands to the page, and how rows are written."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from matplotlib.figure import Figure

from ..attend_excite_claims import paired
from ..sampling import SETTINGS, Settings
from ..world import Prompt, wilson
from .pictures import Made, Picture
from .scores import soft_tifa


class Size(NamedTuple):
    """How much an experiment makes."""

    prompts: int  # of each kind of pair
    seeds: int
    scenes: int  # whose truth is known
    most: int = 1000  # prompts of one experiment
    fewer_steps: int | None = None  # than an experiment takes

    def some(self, prompts: list[Prompt]) -> list[Prompt]:
        return prompts[-self.most :]

    def settings(self, model: str, steps: int = Settings.steps, **changes) -> Settings:
        return replace(SETTINGS[model], steps=self.fewer_steps or steps, **changes)


FULL = Size(prompts=14, seeds=4, scenes=200)
QUICK = Size(prompts=1, seeds=1, scenes=4, most=2, fewer_steps=2)


class Table(NamedTuple):
    """Goes where docs/results.md has a table with this head."""

    head: list[str]
    rows: list[list[str]]

    def titled(self) -> Tables:
        return {self.head[0]: {row[0]: dict(zip(self.head, row, strict=True)) for row in self.rows}}


class Plot(NamedTuple):
    """Goes to docs/images/results/`name`.png."""

    name: str
    figure: Figure


Rows = Mapping[str, Mapping[str, str]]  # name -> column -> cell
Tables = Mapping[str, Rows]  # first cell of the head -> rows
Section = Iterator[Table]
Plots = Iterator[Plot]
Share = tuple[float, float, float]  # value and the ends of its interval, 0..1
Test = Callable[[Picture], bool]


def complete(picture: Picture) -> bool:
    return picture.complete


def bound(picture: Picture) -> bool:
    return picture.bound


def share_of(flags: Sequence[bool]) -> Share:
    """The share and its 95 % interval, 0..1."""
    return share_of_count(sum(flags), len(flags))


def share_of_count(hits: int, count: int) -> Share:
    return hits / max(count, 1), *wilson(hits, count)


def percent(share: Share) -> str:
    value, low, high = (100 * number for number in share)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def share_in(cell: str) -> Share:
    """What `percent` wrote."""
    value, low, high = (float(number) / 100 for number in re.findall(r"-?\d+\.\d+", cell))
    return value, low, high


def starts(rows: Rows, parts: int = 1) -> list[str]:
    """The groups of rows whose names begin with so many parts."""
    return list(dict.fromkeys(", ".join(name.split(", ")[:parts]) for name in rows))


def grouped(rows: Rows, groups: Sequence[str], column: str) -> dict[str, list[Share | None]]:
    """The shares of a column, of rows that are named "group, series": a list over groups for each series."""
    series: dict[str, list[Share | None]] = {}
    for number, group in enumerate(groups):
        for name, row in rows.items():
            if name.startswith(f"{group}, "):
                shares = series.setdefault(name.removeprefix(f"{group}, "), [None] * len(groups))
                shares[number] = share_in(row[column])
    return series


def compared(base: Made, made: Made, test: Test) -> list[str]:
    """share | mended / broken | points | p: against `base`, on the same prompts and seeds."""
    before, after = ([test(picture) for picture in one.pictures] for one in (base, made))
    more = ["-", "-", "-"] if made is base else paired(before, after)
    return [percent(share_of(after)), *more]


def tifa(made: Made) -> list[str]:
    """Soft-TIFA: the mean over atoms, and over pictures of the geometric mean."""
    return [f"{value:.3f}" for value in soft_tifa([picture.atoms for picture in made.pictures])]
