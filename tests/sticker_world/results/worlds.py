"""What each model of Sticker World draws with plain CFG."""
from __future__ import annotations

from ..sampling import plain
from ..world import benchmark_prompts, summary
from .page import Plot, Plots, Section, Size, Table, Tables, percent, share_in, share_of_count, tifa
from .pictures import make
from .plots import bars

TITLE = "plain CFG"
SHARES = {
    "single": "single: all present", "pairs": "pairs: both present", "pairs never seen": "held-out: all present",
    "colours": "binding: colour as asked",
}


def plots(tables: Tables) -> Plots:
    shares = {model: [share_in(row[f"{name}, %"]) for name in SHARES] for model, row in tables[TITLE].items()}
    yield Plot("worlds", bars("Plain CFG", list(SHARES), shares))


def measure(models: list[str], size: Size) -> Section:
    prompts = size.some(benchmark_prompts(size.prompts))
    rows = []
    for model in models:
        made = make(model, "plain CFG", plain, prompts, range(size.seeds), size.settings(model))
        counts = summary(list(made.pictures))
        shares = [percent(share_of_count(*counts.get(key, (0, 0)))) for key in SHARES.values()]
        rows.append([model, *shares, *tifa(made)])
    yield Table([TITLE, *(f"{name}, %" for name in SHARES), "atoms", "prompts"], rows)
