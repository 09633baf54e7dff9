"""The tables of model families in docs/models.md and README.md, from the code: `python -m model_table` writes them."""

from __future__ import annotations

import figures
from paths import use_host

PAGE, SHORT_PAGE = "models.md", "../README.md"
HEADS = (
    ["family", "Word Mask", "S-CFG, by", "SEGA", "Attend-and-Excite", "video", "tested as"],
    ["why not", "families"],
    ["ComfyUI's class", "why its attention is not read"],
)
SHORT_HEAD = ["models", "Word Mask, Word Strength, Keep Apart, SEGA", "S-CFG, at cfg above 1", "Attend-and-Excite"]


def tables() -> tuple[list[list[str]], ...]:
    """The rows of the tables."""
    from host import tiny, tiny_dit

    from semantic_guidance.attention_hooks.families import FAMILIES, REFUSED, model_family

    tested: dict[str, list[str]] = {family.name: [] for family in FAMILIES}
    films = set()
    for name in ("sd15", "sd21", "sdxl", "refiner"):
        tested[model_family(getattr(tiny, name)(), PAGE).name].append(name)
    for name, known in tiny_dit.MODELS.items():
        family = model_family(tiny_dit.model(name), PAGE).name
        tested[family].append(name)
        if len(known.latent) == 4 and known.latent[1] > 1:
            films.add(family)
    rows = [
        [
            family.name, "yes", "foreground" if family.chunk else "whole image", "yes",
            "no" if family.gradient else "yes", "yes" if family.name in films else "",
            ", ".join(tested[family.name]) or "nothing",
        ]
        for family in FAMILIES
    ]
    reasons = dict.fromkeys(family.gradient for family in FAMILIES if family.gradient)
    refused = [
        [reason, ", ".join(family.name for family in FAMILIES if family.gradient == reason)] for reason in reasons
    ]
    return rows, refused, [[name, reason] for name, reason in REFUSED.items()]


def short(families: list[list[str]]) -> list[list[str]]:
    """The families that do the same, in one row each."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, _, _, _, excite, video, _ in families:
        alike.setdefault((excite, video), []).append(name)
    return [
        [f"{'video: ' if video else ''}{', '.join(names)}", "yes", "yes", excite]
        for (excite, video), names in sorted(alike.items(), reverse=True, key=lambda item: (item[0][1] == "", item[0]))
    ]


def main() -> None:
    use_host()
    for head, rows in zip(HEADS, tables(), strict=True):
        figures.write(PAGE, head, rows)
    figures.write(SHORT_PAGE, SHORT_HEAD, short(tables()[0]))


if __name__ == "__main__":
    main()
