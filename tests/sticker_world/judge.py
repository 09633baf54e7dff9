"""The judge: which stickers are in a picture, and in which colours.

    verdicts = judge(images)                  # images [B, 128, 128, 3] in 0..1
    verdicts[0].has("cat"), verdicts[0].has("balloon", "red"), verdicts[0].unknown

A small convolutional network names every 8x8 cell of a picture: a noun, background, or unknown, and a colour. A subject
is a connected patch of cells of one noun, sure enough and large enough; what is neither that nor background is unknown
(a blend of two stickers, for instance). `python -m sticker_world.train_judge` trains it and measures its accuracy.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from .loader import read_weights
from .scenes import COLOURS, NOUNS, OBJECTS

CELL = 8
BACKGROUND = len(NOUNS)
UNKNOWN = BACKGROUND + 1
SURE = 0.6
SMALLEST_SUBJECT = 5  # cells
SMALLEST_BLOB = 4  # cells

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Found:
    """A subject found: its colour (None for animals), mean probability, and box (left, top, right, bottom)."""

    noun: str
    colour: str | None
    confidence: float
    box: Box


@dataclass(frozen=True)
class Verdict:
    """What is in one picture: the subjects, and the boxes of blobs that are no sticker the judge knows."""

    found: tuple[Found, ...]
    unknown: tuple[Box, ...]

    def has(self, noun: str, colour: str | None = None) -> bool:
        return any(one.noun == noun and colour in (None, one.colour) for one in self.found)


class JudgeNet(nn.Module):
    """Pictures [B, 3, 8 h, 8 w] in -1..1 -> logits of nouns [B, nouns + 2, h, w] and colours [B, colours, h, w]."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (3, 32, 64, width)
        for inner, outer in zip(channels, channels[1:], strict=False):
            layers += [nn.Conv2d(inner, outer, 4, stride=2, padding=1), nn.BatchNorm2d(outer), nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        self.context = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=d, dilation=d), nn.BatchNorm2d(width), nn.ReLU())
            for d in (1, 2, 3, 1, 2, 1)
        )
        self.head = nn.Conv2d(width, len(NOUNS) + 2 + len(COLOURS), 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nouns, colours = self.head(self.features(x)).split([len(NOUNS) + 2, len(COLOURS)], 1)
        return nouns, colours

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the last layer sees of each cell, [B, width, h, w]."""
        x = self.stem(x)
        for layer in self.context:
            x = x + layer(x)
        return x


@cache
def load_judge() -> JudgeNet:
    net = JudgeNet().eval()
    net.load_state_dict({name: tensor.float() for name, tensor in read_weights("judge")[0].items()})
    return net


@torch.no_grad()
def judge(images: torch.Tensor, net: JudgeNet | None = None) -> list[Verdict]:
    """A verdict on each of `images` [B, H, W, 3] in 0..1 (stickers as large as in 128x128 scenes)."""
    net = net or load_judge()
    verdicts = []
    for part in images.float().cpu().split(64):
        nouns, colours = net(part.movedim(-1, 1).contiguous() * 2 - 1)
        verdicts += [_verdict(*pair) for pair in zip(nouns.softmax(1).numpy(), colours.softmax(1).numpy(), strict=True)]
    return verdicts


def _verdict(nouns: np.ndarray, colours: np.ndarray) -> Verdict:
    """From probabilities [classes, h, w] of nouns and colours."""
    labels = nouns.argmax(0)
    found = []
    for index in np.unique(labels[labels < BACKGROUND]):
        patches, count = ndimage.label(labels == index)
        for patch in range(1, count + 1):
            cells = patches == patch
            confidence = float(nouns[index][cells].mean())
            if cells.sum() >= SMALLEST_SUBJECT and confidence >= SURE:
                noun = NOUNS[index]
                colour = COLOURS[colours[:, cells].mean(1).argmax()] if noun in OBJECTS else None
                found.append(Found(noun, colour, confidence, _box(cells)))
                labels[cells] = BACKGROUND
    blobs, count = ndimage.label(labels != BACKGROUND, structure=np.ones((3, 3)))
    unknown = [blobs == blob for blob in range(1, count + 1)]
    return Verdict(tuple(found), tuple(_box(cells) for cells in unknown if cells.sum() >= SMALLEST_BLOB))


def _box(cells: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    return tuple(int(edge) * CELL for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
