"""What the machine offers: processor cores, shared memory; and errors that mean that it offers too little."""

import errno
import math
import os
import shutil
import sys
from pathlib import Path

from benchmark.utils.launch import launch

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

_SHARED_MEMORY = Path("/dev/shm")


def cores() -> int:
    """Return the number of CPU cores for this process, by its affinity and the CPU limit of its container.

    If several processes share one command on this machine, each has a part of the cores, at least one.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_limit())) // launch().sharing)


def cpu_limit(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the smallest CPU limit, in cores, of the control groups that contain this process; infinity if none.

    Args:
        cgroups: Where control groups are mounted.
        own: The file that lists the process's groups, as `number:controllers:path`.
    """
    try:
        groups = [line.split(":", 2) for line in own.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:  # there is no /proc
        groups = []
    limits = [math.inf]
    for _, controllers, group in (fields for fields in groups if len(fields) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = cgroups / controllers if controllers else cgroups  # version 1 has a folder per set of controllers
        # In a container, the mounted folder may be the group itself, whatever its path on the host.
        path = Path(group.strip("/"))
        limits += [limit for folder in (path, *path.parents) for limit in _cpu_limits(mounted / folder)]
    return min(limits)


def _cpu_limits(group: Path) -> list[float]:
    """Return the limit of one control group, in cores, if it has one."""
    try:
        if (both := group / "cpu.max").exists():
            quota, period = both.read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip() for name in ("quota", "period")
            )
        return [int(quota) / int(period)] if quota not in ("max", "-1") else []
    except (OSError, ValueError, ZeroDivisionError):
        return []


def free_shared_memory() -> int | None:
    """Return the free shared memory in bytes, which processes use to exchange tensors; None if it is not limited.

    If several processes share one command on this machine, it is this process's part.
    """
    if sys.platform != "linux":
        return None
    if not os.access(_SHARED_MEMORY, os.W_OK):
        return 0
    return shutil.disk_usage(_SHARED_MEMORY).free // launch().local_processes


def max_open_files() -> float:
    """Return the number of files that this process may open at the same time; infinity if it is not limited."""
    if resource is None:
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the machine or of a device does not suffice."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # of torch, which is not imported
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    phrases = ("allocate memory", "out of memory", "not enough memory", "_alloc_failed", "failed to map segment")
    text = str(error).lower()
    return isinstance(error, OSError | RuntimeError | ImportError) and any(phrase in text for phrase in phrases)


def shortage(error: BaseException) -> str | None:
    """Return what the machine lacks, with a remedy, if that is the cause of an error; None for all other errors."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).lower()
    if not isinstance(error, OSError | MemoryError | RuntimeError | ImportError):
        return None
    if number in (errno.EMFILE, errno.ENFILE) or "too many open files" in text or "items of ancdata" in text:
        return "too many open files: raise the limit, such as `ulimit -n 4096`, or set runtime.workers=0"
    if "can't start new thread" in text or number == errno.EAGAIN:
        return "no more processes or threads can be started: raise the limit (`ulimit -u`), or set runtime.workers=0"
    if number in (errno.ENOSPC, errno.EDQUOT):
        place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return f"{place}no space left on the disk: free some, then continue a run with --resume"
    if is_out_of_memory(error):
        return (
            "out of memory: use smaller batches (evaluate.batch_size, train.sampler.identities) or fewer "
            "runtime.workers, or free memory, then continue a run with --resume"
        )
    return None
