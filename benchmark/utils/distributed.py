"""Processes started by `torchrun` that share one evaluation."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from benchmark.errors import UserError


@contextmanager
def process_group(device: torch.device) -> Iterator[bool]:
    """Join torch.distributed's default process group if `torchrun` has started several processes.

    On GPUs, every process uses the GPU of its local rank.

    Yields:
        Whether this is the main process, the only one that prints and writes files.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def share(positions: range) -> range:
    """Return the consecutive part of `positions` that this process handles; all of them if it is the only process.

    Raises:
        UserError: There are fewer positions than processes; raised on every process.
    """
    if not dist.is_initialized():
        return positions
    rank, processes = dist.get_rank(), dist.get_world_size()
    if len(positions) < processes:
        raise UserError(
            f"{len(positions)} images cannot be shared among {processes} processes: "
            f"start at most {len(positions)} processes"
        )
    return positions[len(positions) * rank // processes : len(positions) * (rank + 1) // processes]
