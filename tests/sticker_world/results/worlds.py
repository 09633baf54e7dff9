"""What each model of Sticker World draws with plain CFG."""
from __future__ import annotations

from ..sampling import plain
from ..world import benchmark_prompts, summary
from .page import Plot, Section, Size, Table, percent, share_of, tifa
from .pictures import make, settings_of
from .plots import bars

ROWS = {
    "a single subject is there": "single: all present", "of pairs, both": "pairs: both present",
    "of pairs never seen in training, both": "held-out: all present",
    "of the objects there, in the colour asked for": "binding: colour as asked",
}


def measure(models: list[str], size: Size) -> Section:
    prompts = benchmark_prompts(size.prompts)
    made = [make(model, "plain CFG", plain, prompts, range(size.seeds), settings_of(model)) for model in models]
    counts = [summary(list(one.pictures)) for one in made]
    shares = {
        name: [share_of([True] * count[key][0] + [False] * (count[key][1] - count[key][0])) for count in counts]
        for name, key in ROWS.items()
    }
    rows = [[name, *map(percent, row)] for name, row in shares.items()]
    rows += [[f"Soft-TIFA, {what}", *row] for what, row in zip(
        ("mean over atoms", "geometric mean of a prompt"), zip(*map(tifa, made), strict=True), strict=True)]
    yield Table(["plain CFG, % [95 %]", *models], rows)
    by_model = {model: [row[number] for row in shares.values()] for number, model in enumerate(models)}
    yield Plot("worlds", bars("Plain CFG", ["single", "pairs", "pairs never seen", "colours"], by_model))
