"""An upper bound on the memory of a piece of work."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows, where there is no bound
    resource = None  # type: ignore[assignment]

_STATUS = Path("/proc/self/statm")


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
