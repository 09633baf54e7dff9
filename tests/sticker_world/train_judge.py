"""Train the judge and measure it. `python -m sticker_world.train_judge --help`."""
from __future__ import annotations

import argparse
import json
import random
from itertools import chain
from statistics import fmean

from . import host  # noqa: F401

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from tqdm import trange

from .judge import BACKGROUND, CELL, UNKNOWN, JudgeNet, judge
from .loader import WEIGHTS, load_sticker_world
from .scenes import ANIMALS, COLOURS, NOUNS, OBJECTS, compose, sticker

IGNORE = -100
ROUNDS = 5  # of training, each on fresh scenes


def any_thing(rng: random.Random) -> tuple[str, str | None]:
    noun = rng.choice(OBJECTS if rng.random() < 0.7 else ANIMALS)  # objects come in eleven colours
    return noun, rng.choice(COLOURS) if noun in OBJECTS else None


def not_a_sticker(rng: random.Random) -> Image.Image:
    """What a failing model paints: two stickers mixed, joined halfway, or one torn apart or smeared."""
    first, second = (sticker(*thing) for thing in random_different(rng))
    size = max(first.width, second.width), max(first.height, second.height)
    canvases = []
    for cut in (first, second):
        canvas = Image.new("RGBA", size, (255, 255, 255, 0))
        canvas.alpha_composite(cut, ((size[0] - cut.width) // 2, (size[1] - cut.height) // 2))
        canvases.append(canvas)
    kind = rng.choice(("mixed", "joined", "joined", "torn", "smeared"))
    if kind == "mixed":
        return Image.blend(*canvases, rng.uniform(0.35, 0.65))
    if kind == "joined":
        mask = Image.new("L", size)
        box = (0, 0, size[0] // 2, size[1]) if rng.random() < 0.5 else (0, 0, size[0], size[1] // 2)
        mask.paste(255, box)
        return Image.composite(*canvases, mask.filter(ImageFilter.GaussianBlur(rng.uniform(0, 8))))
    if kind == "torn":
        w, h = first.width // 2, first.height // 2
        tiles = [first.crop((x * w, y * h, x * w + w, y * h + h)) for x in (0, 1) for y in (0, 1)]
        order = rng.choice(((1, 0, 3, 2), (3, 2, 1, 0), (2, 3, 0, 1)))
        torn = Image.new("RGBA", first.size, (255, 255, 255, 0))
        for place, source in enumerate(order):
            torn.paste(tiles[source], (place // 2 * w, place % 2 * h))
        return torn
    return first.filter(ImageFilter.GaussianBlur(rng.uniform(12, 20)))


def random_different(rng: random.Random) -> tuple[tuple[str, str | None], tuple[str, str | None]]:
    first = second = any_thing(rng)
    while second[0] == first[0]:
        second = any_thing(rng)
    return first, second


def labels(coverage: np.ndarray) -> np.ndarray:
    """Cells [16, 16] of a sticker: 1 inside, 0 outside, -1 on the edge."""
    share = coverage.reshape(128 // CELL, CELL, 128 // CELL, CELL).mean((1, 3)) / 255
    return np.where(share > 0.4, 1, np.where(share < 0.1, 0, -1))


def example(rng: random.Random, blends: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """A picture, its cells' noun and colour labels [16, 16], and its things (None for what is not a sticker)."""
    things = [None if rng.random() < blends else any_thing(rng) for _ in range(rng.randint(1, 3))]
    cuts = [sticker(*thing) if thing else not_a_sticker(rng) for thing in things]
    picture, coverages = compose(cuts, rng)
    nouns = np.full((16, 16), BACKGROUND)
    colours = np.full((16, 16), IGNORE)
    for thing, coverage in zip(things, coverages, strict=True):
        cells = labels(coverage)
        nouns[cells < 0] = IGNORE
        nouns[cells > 0] = NOUNS.index(thing[0]) if thing else UNKNOWN
        if thing and thing[1]:
            colours[cells > 0] = COLOURS.index(thing[1])
    return picture, nouns, colours, things


def examples(count: int, seed: int, blends: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list]:
    rng = random.Random(seed)
    pictures, nouns, colours, things = zip(*(example(rng, blends) for _ in range(count)), strict=True)
    return *(torch.from_numpy(np.stack(part)) for part in (pictures, nouns, colours)), list(things)


@torch.inference_mode()
def decoded(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 pictures [B, 128, 128, 3] through the autoencoder and back."""
    _, _, vae = load_sticker_world()
    parts = [(vae.decode(vae.encode(part / 255)).cpu().float() * 255).round().byte() for part in pictures.split(16)]
    return torch.cat(parts)


def augmented(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures [B, 3, 128, 128] in -1..1 with some blur, noise and shifts of contrast, as generated pictures have."""
    x = pictures.movedim(-1, 1).contiguous().float() / 127.5 - 1

    def chance(share: float) -> torch.Tensor:
        return (torch.rand(len(x), 1, 1, 1, generator=generator) < share).float()

    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = x + chance(0.4) * torch.rand(len(x), 1, 1, 1, generator=generator) * (blurred - x)
    x = x + chance(0.5) * 0.06 * torch.randn(x.shape, generator=generator)
    coarse = F.interpolate(torch.randn(len(x), 3, 16, 16, generator=generator), size=x.shape[2:], mode="bilinear")
    x = x + chance(0.4) * 0.08 * coarse
    return x * (1 + 0.06 * torch.randn(len(x), 1, 1, 1, generator=generator)) + 0.03 * torch.randn(
        len(x), 1, 1, 1, generator=generator
    )


def train(net: JudgeNet, steps: int, seed: int, batch: int = 24) -> None:
    pictures, nouns, colours, _ = examples(2400, seed + 100, blends=0.25)
    pictures[1800:] = decoded(pictures[1800:])
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    bar = trange(steps, desc="judge")
    for step in bar:
        chosen = torch.randint(len(pictures), (batch,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            noun_logits, colour_logits = net(augmented(pictures[chosen], generator))
        loss = F.cross_entropy(noun_logits.float(), nouns[chosen]) + F.cross_entropy(
            colour_logits.float(), colours[chosen]
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    net.eval()


def accuracy(net: JudgeNet, pictures: torch.Tensor, things: list) -> dict[str, float]:
    """Shares: subjects found, colours of those, the lowest of a noun and of a colour, blends that got no noun; and
    false finds a picture."""
    nouns: dict[str, list[bool]] = {}
    colours: dict[str, list[bool]] = {}
    false = unreal = named = 0
    for verdict, drawn in zip(judge(pictures.float() / 255, net), things, strict=True):
        for noun, colour in filter(None, drawn):
            nouns.setdefault(noun, []).append(verdict.has(noun))
            if colour and verdict.has(noun):
                colours.setdefault(colour, []).append(verdict.has(noun, colour))
        names = {thing[0] for thing in drawn if thing}
        extra = sum(one.noun not in names for one in verdict.found)
        blends = drawn.count(None)
        unreal += blends
        named += min(extra, blends)
        false += max(0, extra - blends)
    report = {
        "nouns": fmean(chain(*nouns.values())), "worst_noun": min(map(fmean, nouns.values())),
        "colours": fmean(chain(*colours.values())), "worst_colour": min(map(fmean, colours.values())),
        "false_finds": false / len(things),
    }
    return report | ({"blends_not_named": 1 - named / unreal} if unreal else {})


def measure(net: JudgeNet | None, count: int = 800, seed: int = 9000) -> dict[str, dict[str, float]]:
    """Accuracy on fresh scenes, the same decoded by the autoencoder, and scenes with blends. Prints as it goes."""
    report = {}
    pictures, _, _, things = examples(count, seed, blends=0.0)
    mixed, _, _, mixed_things = examples(count // 2, seed + 1, blends=0.5)
    for name, images, truth in (
        ("composed", pictures, things), ("decoded", decoded(pictures), things), ("with blends", mixed, mixed_things)
    ):
        report[name] = accuracy(net, images, truth)
        print(f"judge on {len(images)} {name} scenes:", " ".join(f"{k}={v:.4f}" for k, v in report[name].items()))
    return report


def make_judge(seed: int, steps: int = 1000) -> None:
    """Train the judge, measure it, and write it with the measured accuracy."""
    torch.manual_seed(seed)
    net = JudgeNet()
    for part in range(ROUNDS):
        train(net, steps, seed + part)
    report = measure(net)
    weights = {name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()}
    save_file(weights, WEIGHTS / "judge.safetensors", {"accuracy": json.dumps(report)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--measure", action="store_true", help="only measure the judge of the repository")
    args = parser.parse_args()
    if args.measure:
        measure(None)
    else:
        make_judge(args.seed, args.steps)


if __name__ == "__main__":
    main()
