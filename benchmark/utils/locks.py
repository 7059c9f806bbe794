"""Locks between processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.errors import UserError
from benchmark.utils.console import notify


@contextmanager
def locked(path: Path, use: str) -> Iterator[None]:
    """Hold the lock file `path`, which is created in an existing folder; wait while another process holds it.

    The operating system releases the lock of a killed process.

    Args:
        path: The lock file. It stays, because removing it would let two waiting processes hold two locks.
        use: What holders of the lock do, for the line that is printed if this process has to wait.

    Raises:
        UserError: The file cannot be created or locked.
    """
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            notify(f"waiting for another process that {use}")
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be locked ({error.strerror}); make the folder writable, or use a copy of it"
        ) from error
    except NotImplementedError as error:  # raised by filelock before 3.25
        raise UserError(
            f"{path}: cannot be locked, because its file system has no locks; use a folder elsewhere"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file `path`, which is not created."""
    try:
        if path.exists():
            with FileLock(path, timeout=0):
                return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a lock that `locked` refuses
        return False
    return False
