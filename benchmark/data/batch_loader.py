"""A loader of batches with worker processes, whose failures always reach the main process.

Torch's workers send batches and errors through a queue whose sender is a thread. If that thread cannot send, because
shared memory or file descriptors are exhausted or an error cannot be pickled, it prints a traceback, and the main
process waits for ever. Here a worker pickles its message itself, where a failure can be handled.
"""

import functools
import math
import pickle
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from benchmark.data.batch import Batch
from benchmark.data.images import Images
from benchmark.errors import UserError
from benchmark.utils.console import notify
from benchmark.utils.lifetime import received, start_worker
from benchmark.utils.machine import cores, free_shared_memory, max_open_files, shortage

# Results do not depend on the number of workers, and the default is at most one per core.
warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)

MAX_WORKERS = 8
"""Default upper bound on the number of loader worker processes."""
PREFETCH = 4
"""Number of batches that each worker loads ahead, if the shared memory suffices."""
TIMEOUT = 300
"""Time in seconds after which a loader whose workers send nothing is an error."""
_IN_USE = 2
"""Batches in shared memory besides those loaded ahead: the one in use and the next."""
_SHARE = 0.8
"""Fraction of the free shared memory that a loader may use."""
_FILES, _FILES_PER_WORKER = 40, 6
"""Open files of a process, and those that each loader worker adds: its queues, and the batches in shared memory."""
_free_shared_memory = functools.cache(free_shared_memory)
"""The shared memory that is free before the first loader of this process takes some."""
_noticed: list[str] = []
"""The notice about fewer workers, once it has been printed."""
_reported: set[str] = set()
"""Process ids of the workers whose end has been reported."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The worker processes of a loader."""

    count: int
    """Number of processes; 0 loads in the main process."""
    prefetch: int = PREFETCH
    """Number of batches that each of them loads ahead."""
    reason: str = ""
    """Why there are fewer workers or batches ahead than requested; empty if there are not."""
    remedy: str = ""
    """What to do about it."""

    @property
    def notice(self) -> str | None:
        """What to print if there are fewer workers or batches ahead than requested."""
        if not self.reason:
            return None
        batches = f"{self.prefetch} batch{'es' if self.prefetch > 1 else ''}"
        workers = f"using {self.count} worker{'s' if self.count > 1 else ''} that load {batches} ahead"
        chosen = workers if self.count else "loading in the main process, which is slower"
        return f"{self.reason}: {chosen}; {self.remedy}"


def plan_workers(
    requested: int | None, batch_size: int, image_shape: Sequence[int], *, predecoded: bool = False
) -> Workers:
    """Return as many workers and batches ahead as requested, or as the machine has memory and open files for.

    The number of workers does not change the batches.

    Args:
        requested: Number of worker processes. None requests one per core, up to `MAX_WORKERS`, and none if the images
            are decoded already or there is a single core.
        batch_size: Number of images in a batch.
        image_shape: (3, H, W) of the images, which are uint8.
        predecoded: Whether the images are decoded already.
    """
    count = requested
    if count is None:
        count = 0 if predecoded or cores() == 1 else min(cores(), MAX_WORKERS)
    if not count:
        return Workers(0)
    if max_open_files() < (needed := _FILES + _FILES_PER_WORKER * count):
        reason = f"{count} loader workers need {needed} open files, but the limit is {max_open_files()}"
        return Workers(0, reason=reason, remedy="raise it by `ulimit -n`")
    free = _free_shared_memory()
    batch = batch_size * math.prod(image_shape)
    if free is None or _demand(count, PREFETCH, batch) <= _SHARE * free:
        return Workers(count)
    demand = f"{_demand(count, PREFETCH, batch) / 1e6:.0f} MB of shared memory"
    reason = f"{count} loader workers need {demand}, but /dev/shm has {free / 1e6:.0f} MB left"
    remedy = "enlarge it, such as by `docker run --shm-size=2g`"
    for fewer in range(count, 0, -1):
        for prefetch in range(PREFETCH, 0, -1):
            if _demand(fewer, prefetch, batch) <= _SHARE * free:
                return Workers(fewer, prefetch, reason, remedy)
    return Workers(0, reason=reason, remedy=remedy)


def check_shared_memory(
    requested: int | None, batch_size: int, image_size: tuple[int, int], *, predecoded: bool = False
) -> str | None:
    """Check before a run that the machine can have its loader workers.

    Args:
        requested: `runtime.workers` of the recipe.
        batch_size: Number of images in the largest batch of training and evaluation.
        image_size: (height, width) of the images in pixels.
        predecoded: Whether the images are decoded already.

    Returns:
        A notice if there will be fewer workers or batches ahead than requested, which the caller prints in place of the
        loaders, else None.

    Raises:
        UserError: The recipe requests workers, but not even one is possible.
    """
    plan = plan_workers(requested, batch_size, (3, *image_size), predecoded=predecoded)
    if requested and not plan.count:
        raise UserError(f"runtime.workers: {plan.reason}: {plan.remedy}, or set runtime.workers=0")
    _noticed.extend([plan.notice] if plan.notice else [])
    return plan.notice


def _demand(workers: int, prefetch: int, batch: int) -> int:
    return (workers * prefetch + _IN_USE) * batch


class BatchSource(Protocol):
    """Images that are indexed batch by batch, such as `TrainingImages`."""

    images: Images

    def __getitems__(self, indices: Sequence[Any]) -> Batch: ...


class BatchLoader(DataLoader[Batch]):
    """A loader of training or test batches, none of which is empty.

    An error in a worker process is raised in the main process: a `UserError` as it is, a limit of the machine as a
    UserError, and any other as a RuntimeError with the worker's traceback. So is the end of a worker that is killed.

    Args:
        source: The images.
        batches: The items of each batch.
        batch_size: Number of images in the largest batch.
        workers: Number of worker processes; 0 loads in the main process, None chooses a number: see `plan_workers`.
        device: Device that receives the batches; for "cuda", they are put into pinned memory.
        persistent: Whether to keep the workers alive between epochs.
    """

    def __init__(
        self,
        source: BatchSource,
        batches: Iterable[Sequence[Any]],
        *,
        batch_size: int,
        workers: int | None,
        device: str | torch.device,
        persistent: bool,
    ) -> None:
        plan = plan_workers(workers, batch_size, source.images.shape, predecoded=source.images.predecoded)
        if plan.notice and not _noticed:
            _noticed.append(plan.notice)
            notify(plan.notice)
        self.source = source
        super().__init__(
            _Messages(source),
            batch_sampler=batches,  # type: ignore[arg-type]  # any iterable will do
            collate_fn=_already_collated,
            num_workers=plan.count,
            worker_init_fn=_start_worker,
            timeout=TIMEOUT / 2 if plan.count else 0,
            persistent_workers=persistent and plan.count > 0,
            prefetch_factor=plan.prefetch if plan.count else None,
            pin_memory=torch.device(device).type == "cuda",
            # Without its own generator, a loader advances the random state of the process in every epoch.
            generator=torch.Generator(),
        )

    # torch declares a private iterator class as the return type.
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            batches = super().__iter__()
        except (OSError, RuntimeError) as error:
            raise UserError(f"loader workers cannot be started ({error}): set runtime.workers=0") from error
        if self.num_workers:
            _rename_dead_workers()
        waited = False
        while True:
            try:
                message, waited = next(batches), False
                batch = message.unpack() if isinstance(message, _Message) else message
            except StopIteration:
                return
            except (OSError, EOFError, RuntimeError) as error:
                if _is_timeout(error) and not waited:  # a second time, because Ctrl-Z may have stopped all processes
                    waited = True
                    continue
                if self.num_workers and isinstance(error, OSError | EOFError):
                    time.sleep(0.5)  # the signal that a worker has ended may still arrive, and tells why
                if self.num_workers and (reason := _worker_error(error)):
                    _reported.update(_pids(error))
                    del batches  # stops the other workers, which a reference in the traceback would keep alive
                    self._iterator = None
                    raise UserError(reason) from error
                raise
            if len(batch.images):  # a batch is empty if all of its images are broken
                yield batch


class _WorkerFailed(RuntimeError):
    """An unexpected error in a worker process, with its traceback."""


@dataclass(frozen=True, slots=True)
class _Message:
    """What a worker sends: bytes and text, so that sending cannot fail.

    With shared memory it has less than the 4 kB that a pipe takes in one piece, so that no reader waits for the rest of
    the message of a killed worker.
    """

    batch: bytes = b""
    error: str = ""
    traceback: str = ""

    def unpack(self) -> Batch:
        """Return the batch, or raise the error."""
        if self.error:
            raise UserError(self.error)
        if self.traceback:
            raise _WorkerFailed(f"in a loader worker:\n{self.traceback}")
        images, numbers, stored = map(torch.as_tensor, pickle.loads(self.batch))
        labels, cameras, indices = numbers
        return Batch(images, labels, cameras, indices, stored)

    def pin_memory(self) -> "_Message | Batch":
        """Return the batch in pinned memory; called by a thread of torch's loader."""
        if not self.batch:
            return self
        return Batch(*(part.pin_memory() if part.numel() else part for part in self.unpack()))


class _Messages(Dataset[Any]):
    """A dataset that returns batches, and in a worker process messages with batches or errors."""

    def __init__(self, source: BatchSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.images)

    def __getitems__(self, indices: Sequence[Any]) -> Any:
        if get_worker_info() is None:
            return self.source.__getitems__(indices)
        try:
            return _Message(batch=_pickled(self.source.__getitems__(indices)))
        except UserError as error:
            return _Message(error=str(error))
        except Exception as error:
            reason = shortage(error)
            return _Message(error=reason) if reason else _Message(traceback=traceback.format_exc())


def _pickled(batch: Batch) -> bytes:
    """Return a batch as bytes that refer to shared memory, or contain the images if that is exhausted."""
    parts = (batch.images, torch.stack([batch.labels, batch.cameras, batch.indices]), batch.stored)
    try:
        # Memory of no bytes cannot be shared.
        shared = [part.share_memory_() if part.numel() else part.numpy() for part in parts]
        return bytes(ForkingPickler.dumps(shared))
    except (OSError, RuntimeError):  # shared memory or file descriptors are exhausted
        return pickle.dumps([part.numpy() for part in parts])


def _start_worker(number: int) -> None:
    start_worker()
    sys.excepthook = _report_in_worker


def _report_in_worker(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of a thread that sends batches, unless the main process has ended while it received one."""
    if not isinstance(error, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _rename_dead_workers() -> None:
    """Let the signal handler by which torch reports killed workers raise a UserError."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and getattr(handler, "func", None) is not _report_dead_worker:
            signal.signal(signal.SIGCHLD, functools.partial(_report_dead_worker, handler))


def _report_dead_worker(handler: Callable[[int, Any], Any], number: int, frame: Any) -> None:
    if received() is not None:  # by a signal to the whole process group, which has ended the workers, too
        return
    try:
        handler(number, frame)
    except RuntimeError as error:
        # Torch's handler repeats the error at the end of every process, until the loader is gone.
        if not _pids(error) <= _reported:
            _reported.update(_pids(error))
            raise UserError(_worker_error(error) or str(error)) from None


def _pids(error: Exception) -> set[str]:
    """Return the process ids in an error of torch about workers that have ended."""
    return set(re.findall(r"\d+", re.split("exited|is killed", str(error))[0]))


def _is_timeout(error: Exception) -> bool:
    """Whether this is torch's error about workers that send nothing."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader timed out")


def _worker_error(error: Exception) -> str | None:
    """Return what has happened to a worker that was killed or hangs; None for other errors."""
    text = str(error)
    if isinstance(error.__cause__, UserError):  # of `_report_dead_worker`, while torch was waiting for a batch
        return str(error.__cause__)
    if isinstance(error, _WorkerFailed):
        return None
    if _is_timeout(error):
        return (
            f"no batch of images has arrived for {TIMEOUT} s: a process that loads images hangs, or their disk does. "
            "Check the disk, or set runtime.workers=0; a run can be continued with --resume"
        )
    if isinstance(error, OSError | EOFError) or "DataLoader worker" in text:
        cause = "out of shared memory" if "bus error" in text.lower() else "killed, as happens when memory runs out"
        detail = text.partition(". ")[0] or type(error).__name__
        return shortage(error) or (
            f"a process that loads images has ended ({detail}); it was probably {cause}: set runtime.workers to a "
            "smaller number, or 0; a run can be continued with --resume"
        )
    return shortage(error)


def _already_collated(batch: Any) -> Any:
    """Return the batch as it is, because `__getitems__` returns complete batches."""
    return batch
