"""The tables of model families in docs/models.md, from the code: `python -m model_table` writes them."""

from __future__ import annotations

import figures
from paths import use_host

PAGE = "models.md"
HEADS = (
    ["family", "Word Mask", "S-CFG, by", "SEGA", "Attend-and-Excite", "video", "tested as"],
    ["why not", "families"],
    ["ComfyUI's class", "why its attention is not read"],
)


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


def main() -> None:
    use_host()
    for head, rows in zip(HEADS, tables(), strict=True):
        figures.write(PAGE, head, rows)


if __name__ == "__main__":
    main()
