"""Data-parallel training over processes of one thread each.

Two single-threaded processes that meet once a step stand a busy machine far better than one process of two threads,
which meet in every kernel.
"""
from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
import torch.distributed as dist


def run(worker: Callable[..., None], processes: int, *args: object) -> None:
    """Call `worker(rank, *args)` in each of `processes` processes, which can then share gradients."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_start, (worker, processes, f"file://{folder}/meeting", args), processes)


def _start(rank: int, worker: Callable[..., None], processes: int, meeting: str, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    worker(rank, *args)
    dist.barrier()
    dist.destroy_process_group()


def mine(batch: torch.Tensor) -> torch.Tensor:
    """This process's share of a batch."""
    return batch[dist.get_rank() :: dist.get_world_size()]


def average(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """The mean of each gradient over the processes, float32."""
    flat = torch.cat([gradient.flatten().float() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
