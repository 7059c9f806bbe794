"""Several processes that work on one task."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from benchmark.errors import UserError


@contextmanager
def process_group(device: torch.device) -> Iterator[bool]:
    """Join the processes that `torchrun` has started, if it has; each with a GPU of its own, where there are GPUs.

    Yields:
        Whether this is the process that speaks to the user.
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
    """The consecutive part of `positions` that falls to this process: all of them, where it is alone.

    Raises:
        UserError: On every process, where one would get none.
    """
    if not dist.is_initialized():
        return positions
    rank, processes = dist.get_rank(), dist.get_world_size()
    if len(positions) < processes:
        raise UserError(f"{len(positions)} images are too few for {processes} processes: start fewer")
    return positions[len(positions) * rank // processes : len(positions) * (rank + 1) // processes]
