"""Colours for words that can be told apart, also by the colour-blind."""

from __future__ import annotations

import torch
from torch import Tensor

# Seven chosen by eye, then always the colour farthest from all before it and from NO_WORD, where the distance of two
# colours is the smallest of those that a normal, a protanopic and a deuteranopic eye sees (in OKLab).
PALETTE = (
    "#2f6db5", "#ef8a2d", "#f3dc4e", "#12998c", "#8a3550", "#8fd0f5", "#f08cbc", "#b45400", "#c078fc", "#6c0090",
    "#b4f0b4", "#e45460", "#f0b478", "#a8180c", "#9c4884", "#2448c0", "#781860", "#6c84c0", "#90f0f0", "#9060e4",
)
NO_WORD = "#c4c4c0"
LIGHTER, DARKER = 0.5, 0.4  # share of white or black in the colours after the first twenty


def rgb(colour: str) -> Tensor:
    """[3] in 0..1."""
    return torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def word_colour(number: int | None) -> Tensor:
    """[3] in 0..1: the colour of the word with this number, from 0; None is the colour of "no word"."""
    if number is None:
        return rgb(NO_WORD)
    round_, place = divmod(number, len(PALETTE))
    colour = rgb(PALETTE[place])
    if round_ % 3 == 1:
        return colour + LIGHTER * (1 - colour)
    if round_ % 3 == 2:
        return colour * (1 - DARKER)
    return colour
