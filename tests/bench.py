"""Cost of guidance as a ratio to plain CFG, measured in the same run: `python dev.py bench`.

Random weights in the host's own classes at the real topologies. Plain and guided sampling alternate; the ratio is the
median over the rounds. On the CPU, time is CPU time, so that other load on the machine matters little, and memory is
the peak of what torch holds beyond the weights, from its profiler. With --device cuda, time is what lies between two
events on the stream, and memory the peak that torch's allocator counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from paths import use_host

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rounds", type=int, default=3, help="times that plain and guided sampling alternate")
parser.add_argument("--steps", type=int, default=1, help="sampling steps in each")
parser.add_argument("--method", default="S-CFG", choices=[
    "S-CFG", "A&E", "SEGA", "SEGA-3", "Schedule", "Schedule-words", "Meter", "Meter-words",
])
parser.add_argument("--width", type=int, default=320, help="model channels of SD 1.5; SDXL has half of it on the CPU")
parser.add_argument("--own", action="store_true", help="only the share of the time that the pack's own code takes")
parser.add_argument("--only", choices=["sd15", "sdxl"], help="one topology only")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="float32 on the CPU, float16 on CUDA")
ARGUMENTS = parser.parse_args()
if ARGUMENTS.device == "cuda" and not torch.cuda.is_available():
    sys.exit("dev.py bench: PyTorch finds no CUDA device here")
use_host(ARGUMENTS.device)  # before anything of the host is imported

import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
from measuring import CPU, peak_bytes, seconds  # noqa: E402
from topologies import Topology, build, sd15, sdxl  # noqa: E402

from semantic_guidance.attention_hooks.token_maps import Capture  # noqa: E402
from semantic_guidance.guidance.attend_excite import Excitation  # noqa: E402
from semantic_guidance.guidance.sega import Momentum  # noqa: E402
from semantic_guidance.sampling.attend_excite import run as attend_excite  # noqa: E402
from semantic_guidance.sampling.meter.run import MeterRun, patch_meter  # noqa: E402
from semantic_guidance.sampling.post_cfg import Guidance  # noqa: E402
from semantic_guidance.sampling.run import Run  # noqa: E402
from semantic_guidance.sampling.scfg import run as scfg  # noqa: E402
from semantic_guidance.sampling.schedule import run as schedule  # noqa: E402
from semantic_guidance.sampling.sega.concepts import Concept  # noqa: E402
from semantic_guidance.sampling.sega.run import patch_sega  # noqa: E402
from semantic_guidance.words.factors import WordFactor  # noqa: E402

DEVICE = comfy.model_management.get_torch_device()
DTYPE = torch.float32 if DEVICE == CPU else torch.float16

METHODS = {
    "S-CFG": lambda model: scfg.patch_scfg(model, scfg.Settings())[0],
    # No refinement. Half of the steps move the latent, as in a run of any length, so --steps must be even.
    "A&E": lambda model: attend_excite.patch_attend_excite(
        model, attend_excite.Settings(("#2", "#5"), Excitation(thresholds=()))
    )[0],
    "SEGA": lambda model: with_concepts(model, 1),  # (2 + K) / 2 rows of plain CFG: 1.5
    "SEGA-3": lambda model: with_concepts(model, 3),  # 2.5
    "Schedule": lambda model: schedule.patch_schedule(model, schedule.Settings()),
    "Schedule-words": lambda model: schedule.patch_schedule(
        model, schedule.Settings(words=(WordFactor("#2", 2.0), WordFactor("#5", 0.5)))
    ),
    "Meter": lambda model: patch_meter(model, (), None)[0],
    "Meter-words": lambda model: patch_meter(model, ("#2", "#5"), None)[0],
}


def with_concepts(model, count: int):
    """With as many concepts, which act in every step."""
    text = torch.randn((1, 77, model.model.model_config.unet_config["context_dim"]))
    concept = Concept([[text, {"pooled_output": torch.zeros((1, 1280))}]], warmup=0)
    return patch_sega(model, (concept,) * count, Momentum())


TOPOLOGIES = {
    "sd15": sd15(ARGUMENTS.width),
    "sdxl": sdxl(ARGUMENTS.width // 2 if DEVICE == CPU else ARGUMENTS.width),
}


def sampler(model, topology: Topology, steps: int) -> Callable[[], None]:
    """A function that samples once with `model`."""
    generator = torch.Generator().manual_seed(1)
    latent = torch.zeros((1, *topology.latent))
    noise = torch.randn(latent.shape, generator=generator)
    positive, negative = (
        [[torch.randn((1, *topology.text), generator=generator), {"pooled_output": torch.zeros((1, 1280))}]]
        for _ in range(2)
    )

    def run() -> None:
        with torch.inference_mode():
            comfy.sample.sample(
                model, noise, steps, 7.5, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=1
            )

    return run


def compare(method: str, topology: Topology) -> None:
    rounds, steps = ARGUMENTS.rounds, ARGUMENTS.steps
    model = build(topology, DTYPE, DEVICE)
    guided = METHODS[method](model)
    plain_run, guided_run = sampler(model, topology, steps), sampler(guided, topology, steps)
    plain_peak, guided_peak = peak_bytes(plain_run, DEVICE), peak_bytes(guided_run, DEVICE)  # these also warm up
    plain_time, guided_time = [], []
    for _ in range(rounds):
        plain_time.append(seconds(plain_run, DEVICE))
        guided_time.append(seconds(guided_run, DEVICE))
    ratios = [b / a for a, b in zip(plain_time, guided_time, strict=True)]
    print(
        f"{topology.name:<30} {method} / CFG time {statistics.median(ratios):.4f}"
        f" ({min(ratios):.4f} to {max(ratios):.4f})  step {statistics.median(plain_time) / steps:.3f} s"
        f"  memory +{(guided_peak - plain_peak) / 2**20:.1f} MB of {plain_peak / 2**20:.0f} MB",
        flush=True,
    )


def own_share(method: str, topology: Topology) -> None:
    """How much of a guided run's CPU time passes in the pack's own functions, which a busy machine hardly changes."""
    own, inside = 0.0, False

    def timed(function: Callable) -> Callable:
        def call(*args, **kwargs):
            nonlocal own, inside
            if inside:
                return function(*args, **kwargs)
            start, inside = time.thread_time(), True
            try:
                return function(*args, **kwargs)
            finally:
                own, inside = own + time.thread_time() - start, False

        return call

    for kind in (Run, Guidance, scfg.SCFGRun, schedule.ScheduleRun, MeterRun, Capture):
        for key, function in [*vars(kind).items()]:
            if callable(function) and not key.startswith("__") and key not in ("watch_forward", "reads_attention"):
                setattr(kind, key, timed(function))
    model = METHODS[method](build(topology, DTYPE, DEVICE))
    taken = seconds(sampler(model, topology, ARGUMENTS.steps), DEVICE)
    share = own / (taken - own)
    print(f"{topology.name:<30} {method}: {own:.4f} s of {taken:.2f} s, {share:.5f} of the rest", flush=True)


def main() -> None:
    for name in [ARGUMENTS.only] if ARGUMENTS.only else TOPOLOGIES:
        measure = own_share if ARGUMENTS.own else compare
        measure(ARGUMENTS.method, TOPOLOGIES[name])


if __name__ == "__main__":
    main()
