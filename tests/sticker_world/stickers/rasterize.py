"""Rasterize the stickers from the npm package `fluentui-emoji` 1.3.0 (MIT): needs `resvg-py` and the unpacked package.

    npm pack fluentui-emoji@1.3.0 && tar xzf fluentui-emoji-1.3.0.tgz && python rasterize.py package
"""
from __future__ import annotations

import sys
from pathlib import Path

import resvg_py

SIDE = 128

SOURCES = {
    "cat": "cat-face", "dog": "dog-face", "bird": "bird", "bear": "bear", "lion": "lion", "horse": "horse",
    "elephant": "elephant", "monkey": "monkey", "frog": "frog", "turtle": "turtle", "rabbit": "rabbit-face",
    "mouse": "mouse", "backpack": "backpack", "glasses": "glasses", "crown": "crown", "suitcase": "luggage",
    "chair": "chair", "balloon": "balloon", "bow": "ribbon", "car": "automobile", "bowl": "bowl-with-spoon",
    "clock": "alarm-clock", "apple": "red-apple",
}


def main(package: Path) -> None:
    for noun, icon in SOURCES.items():
        svg = (package / "icons" / "modern" / f"{icon}.svg").read_text(encoding="utf-8")
        png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)
        (Path(__file__).parent / f"{noun}.png").write_bytes(bytes(png))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
