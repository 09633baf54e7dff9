"""Plots of the results page."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .page import Share

INK, QUIET, RULE = "#22242a", "#6d717b", "#e4e6ea"
COLOURS = ("#9aa0ab", "#2f6fde", "#e0792b", "#2a9d6f", "#a24bc4", "#d2405a")  # the first is plain CFG's
matplotlib.rcParams |= {
    "font.size": 10, "text.color": INK, "axes.labelcolor": QUIET, "axes.edgecolor": RULE, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "axes.grid": True, "axes.grid.axis": "y", "grid.color": RULE, "xtick.color": QUIET,
    "ytick.color": QUIET, "xtick.labelcolor": INK, "xtick.bottom": False, "ytick.left": False,
    "legend.frameon": False, "legend.labelcolor": INK,
}


def bars(title: str, groups: Sequence[str], series: Mapping[str, Sequence[Share | None]], wide: float = 8.0) -> Figure:
    """Shares with their intervals, a bar for each series in each group; None leaves a gap."""
    figure = Figure(figsize=(wide, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    width = min(0.8 / len(series), 0.3)
    for number, (name, shares) in enumerate(series.items()):
        for group, share in enumerate(shares):
            if share is not None:
                value, low, high = (100 * number for number in share)
                x = group + (number + 0.5 - len(series) / 2) * width
                axes.bar(x, value, 0.88 * width, color=COLOURS[number], label=name if group == 0 else None)
                axes.errorbar(x, value, [[value - low], [high - value]], color=INK, linewidth=1, capsize=2)
    axes.set(title=title, xticks=range(len(groups)), xticklabels=groups, ylim=(0, 100), ylabel="%")
    axes.margins(x=0.02)
    figure.legend(loc="outside lower center", ncols=min(len(series), 4))
    return figure


def curves(
    title: str, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], across: str, up: str
) -> Figure:
    """A panel side by side for each of `panels`, in it a line through the points (x, y) of each series."""
    figure = Figure(figsize=(max(4 * len(panels), 6), 3.6), dpi=110, layout="constrained")
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    for axes, (panel, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in series.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", color=COLOURS[names.index(name)], label=name)
        axes.set(title=panel, xlabel=across, ylabel=up)
        if all(isinstance(x, int) for points in series.values() for x, _ in points):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = {h.get_label(): h for axes in figure.axes for h in axes.get_lines()}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
