"""Cost of S-CFG and Word Mask on transformers: `python dev.py bench-transformers`.

Random weights in the host's own classes at the widths, heads and sizes of the real models, reduced in depth to one
block, which is watched. What making maps and guiding take is timed within the run, and the rest of it is what the run
takes without: all blocks of the whole model cost the same, and only some are watched. What is not in a block counts
with each. Time is CPU time, the median over the rounds; memory is the peak of what torch holds beyond the weights,
with and without watching.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from paths import use_host

use_host()

from comfy.cli_args import args as host_arguments  # noqa: E402

host_arguments.use_pytorch_cross_attention = True  # what the host takes on most GPUs

import comfy.sample  # noqa: E402
import torch  # noqa: E402
from measuring import peak_bytes, seconds  # noqa: E402
from topologies import JOINT, VIDEO, Topology, build  # noqa: E402

from semantic_guidance.attention_hooks.families import model_family  # noqa: E402
from semantic_guidance.attention_hooks.token_maps import Capture  # noqa: E402
from semantic_guidance.sampling.scfg.run import SCFGRun, Settings, patch_scfg  # noqa: E402
from semantic_guidance.sampling.word_mask import word_maps  # noqa: E402
from semantic_guidance.words.prompt import CONDITIONING_KEY, PromptWords, Word  # noqa: E402

WORDS = PromptWords(tuple(Word(f"word {n}", (n,)) for n in range(1, 13)), 0)


def prompt(topology: Topology, seed: int) -> list:
    tokens, width = topology.text
    text = torch.randn((1, tokens, width), generator=torch.Generator().manual_seed(seed))
    text[..., 2048:] = 0 if topology is JOINT else text[..., 2048:]  # as CLIP's columns are
    pooled = torch.zeros(1, 1280 if topology.config == "SDXL" else 2048)
    return [[text, {"pooled_output": pooled, CONDITIONING_KEY: WORDS._replace(length=tokens)}]]


def sampler(model, positive: list, topology: Topology) -> Callable[[], None]:
    """A function that samples one step."""
    latent = torch.zeros((1, *topology.latent))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))

    def run() -> None:
        with torch.inference_mode():
            comfy.sample.sample(
                model, noise, 1, 5.0, "euler", "simple", positive, prompt(topology, 1), latent,
                disable_pbar=True, seed=1,
            )

    return run


def look(model, topology: Topology) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            latent = {"samples": torch.ones((1, *topology.latent))}
            word_maps(model, prompt(topology, 0), latent, ["word 3"], 0.2, "power series")

    return run


class Stopwatch:
    """CPU time within some methods, while it is open."""

    def __init__(self, *methods: tuple[type, str]):
        self.methods = methods
        self.seconds = dict.fromkeys((name for _, name in methods), 0.0)

    def __enter__(self) -> Stopwatch:
        self.originals = [getattr(owner, name) for owner, name in self.methods]
        for (owner, name), original in zip(self.methods, self.originals, strict=True):
            setattr(owner, name, self._timed(name, original))
        return self

    def __exit__(self, *exception) -> None:
        for (owner, name), original in zip(self.methods, self.originals, strict=True):
            setattr(owner, name, original)

    def _timed(self, name: str, original: Callable) -> Callable:
        def call(*args, **kwargs):
            start = time.process_time()
            result = original(*args, **kwargs)
            self.seconds[name] += time.process_time() - start
            return result

        return call


def measure(title: str, topology: Topology, read: int, watched: Callable[[], None], rounds: int) -> None:
    ratios = []
    for _ in range(rounds):
        with Stopwatch((Capture, "_layer_maps"), (SCFGRun, "guide")) as watch:
            total = seconds(watched)
        maps, guide = watch.seconds.values()
        plain = topology.blocks * (total - maps - guide)
        ratios.append(1 + (read * maps + guide) / plain)
    print(
        f"{title}: {statistics.median(ratios):.4f} x with {read} of {topology.blocks} blocks watched; one block "
        f"{total - maps - guide:.1f} s, its maps {maps:.2f} s, guiding {guide:.2f} s", flush=True,
    )


def measure_memory(plain: Callable[[], None], watched: Callable[[], None]) -> None:
    before, after = peak_bytes(plain), peak_bytes(watched)
    print(f"  memory {(after - before) / 2**20:+.1f} MB of {before / 2**20:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["joint", "video"])
    parser.add_argument("--time-only", action="store_true", help="do not measure memory, which takes two more runs")
    arguments = parser.parse_args()
    rows = {"joint": JOINT, "video": VIDEO}
    for topology in (rows.values() if arguments.only is None else [rows[arguments.only]]):
        model = build(topology)
        read = model_family(model, "bench").read
        print(topology.name, flush=True)
        guided = patch_scfg(model, Settings())[0]
        positive = prompt(topology, 0)
        measure("  S-CFG / plain CFG", topology, read, sampler(guided, positive, topology), arguments.rounds)
        measure("  Word Mask / one model call", topology, read, look(model, topology), arguments.rounds)
        if not arguments.time_only:
            measure_memory(sampler(model, positive, topology), sampler(guided, positive, topology))


if __name__ == "__main__":
    main()
