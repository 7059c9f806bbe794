"""Processes started by `torchrun` that share one evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from benchmark.errors import UserError
from benchmark.utils.variables import launch


@contextmanager
def process_group(device: torch.device) -> Iterator[bool]:
    """Join torch.distributed's default process group if `torchrun` has started several processes.

    On GPUs, every process uses the GPU of its local rank.

    Raises:
        UserError: The variables of `torchrun` are invalid, or the processes cannot be connected.

    Yields:
        Whether this is the main process, the only one that prints and writes files.
    """
    started = launch()
    if started.processes == 1:
        yield True
        return
    try:
        if device.type == "cuda":
            if started.local_rank >= (gpus := torch.cuda.device_count()):
                raise UserError(
                    f"LOCAL_RANK={started.local_rank}: this machine has {gpus} GPUs; start at most {gpus} processes "
                    "per machine, or use --device cpu"
                )
            torch.cuda.set_device(started.local_rank)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the {started.processes} processes cannot be connected: check MASTER_ADDR and MASTER_PORT, or start the "
            f"command with torchrun ({str(error).splitlines()[0]})"
        ) from error
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
