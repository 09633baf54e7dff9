"""What a run takes, on the CPU or on a GPU: time, and memory beyond what was held before."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch

CPU = torch.device("cpu")


def seconds(run: Callable[[], None], device: torch.device = CPU) -> float:
    """CPU time of `run`; on a GPU the time between an event before its first kernel and one after its last."""
    if device == CPU:
        start = time.process_time()
        run()
        return time.process_time() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    run()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1000


def peak_bytes(run: Callable[[], None], device: torch.device = CPU) -> int:
    """The most that torch held at once on the device during `run`, beyond what it held before."""
    if device != CPU:
        run()  # loads the weights, which stay
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - held
    gc.collect()  # what an earlier run left would be counted as given back
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
