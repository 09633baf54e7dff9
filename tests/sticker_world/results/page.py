"""What an experiment hands to the page, and how rows are written."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from ..attend_excite_claims import paired
from ..world import wilson
from .pictures import Made, Picture
from .scores import soft_tifa


class Size(NamedTuple):
    """How much an experiment makes."""

    prompts: int  # of each kind of pair
    seeds: int
    scenes: int  # whose truth is known


FULL = Size(prompts=14, seeds=4, scenes=200)
QUICK = Size(prompts=1, seeds=1, scenes=4)


class Table(NamedTuple):
    """Goes where docs/results.md has a table with this head."""

    head: list[str]
    rows: list[list[str]]


class Plot(NamedTuple):
    """Goes to docs/images/results/`name`.png."""

    name: str
    figure: Figure


Section = Iterator[Table | Plot]
Test = Callable[[Picture], bool]


def complete(picture: Picture) -> bool:
    return picture.complete


def bound(picture: Picture) -> bool:
    return picture.bound


def share_of(flags: Sequence[bool]) -> tuple[float, float, float]:
    """The share and its 95 % interval, 0..1."""
    return share_of_count(sum(flags), len(flags))


def share_of_count(hits: int, count: int) -> tuple[float, float, float]:
    return hits / max(count, 1), *wilson(hits, count)


def percent(share: tuple[float, float, float]) -> str:
    value, low, high = (100 * number for number in share)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def compared(base: Made, made: Made, test: Test) -> list[str]:
    """share | mended / broken | points | p: against `base`, on the same prompts and seeds."""
    before, after = ([test(picture) for picture in one.pictures] for one in (base, made))
    more = ["-", "-", "-"] if made is base else paired(before, after)
    return [percent(share_of(after)), *more]


def tifa(made: Made) -> list[str]:
    """Soft-TIFA: the mean over atoms, and over pictures of the geometric mean."""
    return [f"{value:.3f}" for value in soft_tifa([picture.atoms for picture in made.pictures])]
