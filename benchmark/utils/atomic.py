"""Files and folders that are written completely or not at all.

A writer locks its temporary file until it ends. The operating system releases the lock of a killed writer, so that the
next writer in the folder can tell the temporary files of killed writers from those of living ones, and removes them.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where temporary files of killed processes are left
    fcntl = None  # type: ignore[assignment]

_MARK = ".tmp-"
"""Part of the names of all temporary files, `.<target's name>.tmp-<random><target's suffix>`."""
_LOCK = ".lock"
"""The file that is locked within a temporary folder."""


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `target`. On success, flush it to disk and rename it to `target`.

    Raises:
        OSError: The file cannot be written; the error has the name of `target`.
    """
    with temporary_path(target) as temporary:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes the file inaccessible to other users
        temporary.replace(target)
        _sync_folder(target.parent)


def write_text(target: Path, text: str) -> None:
    """Write `text` as UTF-8 to `target`, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def temporary_path(target: Path) -> Iterator[Path]:
    """Yield a temporary file in the folder of `target`, which is created if needed; remove the file at the end.

    The temporary files of killed processes in that folder are removed, too.

    Raises:
        OSError: The folder or the file cannot be written to; the error has the name of `target`.
    """
    with _errors_name(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        while True:
            handle, name = tempfile.mkstemp(prefix=_prefix(target), suffix=target.suffix, dir=target.parent)
            if _lock(handle, Path(name)):
                break
            os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)
            os.close(handle)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder. On success, flush its files to disk and rename it to `target` in one step.

    If another process has created `target` in the meantime, the temporary folder is discarded.
    """
    with temporary_folder(target) as temporary:
        folder = temporary / target.name  # a subfolder, because mkdtemp's is inaccessible to other users
        folder.mkdir()
        yield folder
        os.sync()  # otherwise a power loss may leave a complete folder of empty files
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        _sync_folder(target.parent)


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `target`, whose parents are created if needed; remove the folder at the end.

    The temporary files and folders of killed processes next to `target` are removed, too.

    Raises:
        OSError: The parent folder or the folder cannot be written to; the error has the name of `target`.
    """
    with _errors_name(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        while True:
            temporary = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
            with suppress(FileNotFoundError):  # another process has swept the folder before it was locked
                handle = os.open(temporary / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
                if _lock(handle, temporary / _LOCK):
                    break
                os.close(handle)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes have left directly in `folder`.

    Those of living processes are locked and stay. Where files cannot be locked, all stay.
    """
    for leftover in folder.glob(f".*{_MARK}*"):
        with suppress(OSError):  # another process may remove it at the same time
            if not leftover.is_dir():
                with _locked(leftover):
                    leftover.unlink()
            elif (leftover / _LOCK).exists():
                with _locked(leftover / _LOCK):
                    shutil.rmtree(leftover)
            else:
                leftover.rmdir()  # empty: its process was killed, or is about to lock it and will create another one


@contextmanager
def _errors_name(target: Path) -> Iterator[None]:
    """Give an OSError about a temporary file, or without a name as on a full disk, the name of the target."""
    try:
        yield
    except OSError as error:
        if error.filename is None or _MARK in str(error.filename):
            error.filename, error.filename2 = str(target), None
        raise


def _prefix(target: Path) -> str:
    return f".{target.name}{_MARK}"


def _lock(handle: int, path: Path) -> bool:
    """Lock a new file until it is closed. Return False if a sweeping process has locked or removed it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where no process sweeps
        return True
    return path.exists()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file.

    Raises:
        OSError: Another process holds it, or it cannot be locked.
    """
    if fcntl is None:
        raise OSError("files cannot be locked")
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, so that a power loss does not undo a rename."""
    with suppress(OSError):  # not all file systems can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
