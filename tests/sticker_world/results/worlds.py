"""What each model of Sticker World draws with plain CFG."""
from __future__ import annotations

from ..sampling import plain
from ..world import benchmark_prompts, summary
from .page import Plot, Section, Size, Table, percent, share_of_count, tifa
from .pictures import make, settings_of
from .plots import bars

SHARES = {
    "single": "single: all present", "pairs": "pairs: both present", "pairs never seen": "held-out: all present",
    "colours": "binding: colour as asked",
}


def measure(models: list[str], size: Size) -> Section:
    prompts = benchmark_prompts(size.prompts)
    rows, by_model = [], {}
    for model in models:
        made = make(model, "plain CFG", plain, prompts, range(size.seeds), settings_of(model))
        counts = summary(list(made.pictures))
        by_model[model] = shares = [share_of_count(*counts[key]) for key in SHARES.values()]
        rows.append([model, *map(percent, shares), *tifa(made)])
    yield Table(["plain CFG", *(f"{name}, %" for name in SHARES), "atoms", "prompts"], rows)
    yield Plot("worlds", bars("Plain CFG", list(SHARES), by_model))
