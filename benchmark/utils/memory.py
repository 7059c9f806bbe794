"""The memory of a process: an upper bound, what to do if it does not suffice, and whether freed memory is kept."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.errors import UserError
from benchmark.utils.machine import is_out_of_memory

try:
    import resource
except ImportError:  # not on Windows, where there is no bound
    resource = None  # type: ignore[assignment]

_STATUS = Path("/proc/self/statm")
# Parameters of glibc's `mallopt`, and the largest value that it accepts for the second.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MAX_MMAP_THRESHOLD = 2**25


@contextmanager
def memory_limit(additional: int) -> Iterator[None]:
    """Let allocations fail that take more memory than the process has now and `additional` bytes.

    They raise a MemoryError or, within torch, a RuntimeError, instead of the system killing a process. There is no
    limit except on Linux.
    """
    if resource is None or not _STATUS.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(_STATUS.read_text().split()[0]) * resource.getpagesize() + additional
    known = [each for each in (soft, hard, limit) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def explain_shortage(explain: Callable[[], str]) -> Iterator[None]:
    """Convert the error that memory does not suffice to a UserError.

    Args:
        explain: Returns the message.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError(explain()) from error
        raise


def keep_freed_memory() -> None:
    """Let glibc keep blocks of up to 32 MiB that are freed, for later allocations of this process.

    By default, it returns large blocks to the system, which clears every page again when it is next used. A training
    step allocates and frees the same blocks as the step before. Does nothing with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if resource is not None else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, 2**30)
