"""The memory of a process: an upper bound, and whether freed memory is kept."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def keep_freed_memory() -> None:
    """Let glibc keep blocks of up to 32 MiB that are freed, for later allocations of this process.

    By default, it returns large blocks to the system, which clears every page again when it is next used. A training
    step allocates and frees the same blocks as the step before. Does nothing with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if resource is not None else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, 2**30)
