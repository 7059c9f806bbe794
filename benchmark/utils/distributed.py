"""Processes that share one command: their group, what only the main process does, and what is shared.

Every function here also works if there is a single process, and then does nothing but its work.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from benchmark.errors import UserError
from benchmark.utils.console import only_errors
from benchmark.utils.launch import Launch, launch
from benchmark.utils.lifetime import Stopped
from benchmark.utils.watch import Watch

T = TypeVar("T")
_MEETING = timedelta(minutes=10)
"""How long processes wait for each other at the start."""
_WORK = timedelta(days=7)
"""How long processes wait for each other later. The end of a process is noticed in other ways: see `Watch`."""


@contextmanager
def process_group(device: torch.device) -> Iterator[bool]:
    """Join torch.distributed's default process group if several processes share this command.

    The other processes end within 30 seconds if one of them fails or is killed. Only the main process prints.

    Args:
        device: The device of this process: see `choose_device`.

    Raises:
        UserError: The variables of the launcher are invalid, the processes cannot be connected, or another process has
            failed.

    Yields:
        Whether this is the main process, the only one that writes files.
    """
    started = launch()
    if started.processes == 1 or dist.is_initialized():
        yield is_main_process()
        return
    watch = _connect(started, device)
    try:
        with only_errors(started.rank > 0):
            yield started.rank == 0
        _meet()
    except Stopped:  # raised on every process
        _meet()
        raise
    except BaseException as error:
        if isinstance(error, RuntimeError) and (reason := watch.lost(error)):
            lost = UserError(reason)
            watch.announce(lost)
            raise lost from error
        watch.announce(error)
        raise
    finally:
        watch.stop()
        if device.type == "cpu":  # NCCL would wait for a process that is gone
            dist.destroy_process_group()
    if dist.is_initialized():
        dist.destroy_process_group()


def _connect(started: Launch, device: torch.device) -> Watch:
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {device.type}: several processes need cpu or cuda; start a single process")
    # gloo carries what processes tell each other, also on GPUs, so that waiting for it does not occupy them.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    rank, processes = started.rank, started.processes
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        url = f"tcp://{started.address}:{started.port}"
        store, *_ = next(rendezvous(url, rank, processes, timeout=_MEETING))
        watch = Watch(dist.PrefixStore("watch", store.clone()), rank, processes)
        group = dist.PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=rank, world_size=processes, timeout=_WORK)
        _meet()  # connects gloo, whose connections tell that a process has ended
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the {processes} processes cannot be connected: check MASTER_ADDR and MASTER_PORT, or start the "
            f"command with torchrun ({str(error).splitlines()[0]})"
        ) from error
    watch.start()
    return watch


def _meet() -> None:
    """Wait for all processes."""
    dist.all_reduce(torch.zeros(1))


def processes() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the only process, or the first of several."""
    return rank() == 0


def on_main(function: Callable[[], T]) -> T:
    """Call a function on the main process only, while the others wait.

    Returns:
        The result of the function, on every process; it must be possible to pickle it.

    Raises:
        Exception: What the function raises, on every process.
    """
    if processes() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome[0] = function()
        except Exception as error:
            dist.broadcast_object_list([None, _portable(error)], device=_HOST)
            raise
    dist.broadcast_object_list(outcome, device=_HOST)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


@contextmanager
def held_by_main(context: AbstractContextManager[object]) -> Iterator[None]:
    """Enter a context, such as a lock, on the main process only. The others continue once it is entered."""
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(context)

        on_main(enter)
        yield


def from_all(value: T) -> list[T]:
    """Return the values of all processes in the order of their ranks; it must be possible to pickle them."""
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    dist.all_gather_object(values, value)
    return values


def largest(value: int) -> int:
    """Return the largest of the values of all processes."""
    if processes() == 1:
        return value
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def gathered(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of their ranks.

    Every process must compute the same loss from the result. The gradient is then averaged over the processes by
    `average_`, so that it is multiplied by their number here; it needs no communication.

    Args:
        rows: (B, ...), of the same shape on every process.

    Returns:
        (B * processes, ...).
    """
    if processes() == 1:
        return rows
    whole: Tensor = _Gathered.apply(rows)
    return whole


@torch.no_grad()
def average_(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, which have one dtype and device, by their means over the processes."""
    if processes() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= processes()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view(tensor.shape))


def part(length: int) -> slice:
    """Return the part of `length` positions that this process handles, if the number of processes divides them."""
    return slice(length * rank() // processes(), length * (rank() + 1) // processes())


def share(positions: range) -> range:
    """Return the consecutive part of `positions` that this process handles; all of them if it is the only process.

    Raises:
        UserError: There are fewer positions than processes; raised on every process.
    """
    if len(positions) < processes():
        raise UserError(
            f"{len(positions)} images cannot be shared among {processes()} processes: "
            f"start at most {len(positions)} processes"
        )
    return positions[part(len(positions))]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        whole = rows.new_empty(len(rows) * processes(), *rows.shape[1:])
        dist.all_gather(list(whole.split(len(rows))), rows.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[part(len(gradient))] * processes()


def _portable(error: Exception) -> Exception:
    """Return an error for other processes: errors of other kinds may not be possible to pickle."""
    return error if isinstance(error, UserError) else RuntimeError(f"in the main process: {error!r}")


_HOST = torch.device("cpu")
