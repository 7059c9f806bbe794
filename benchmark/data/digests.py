"""Content hashes of image files, remembered between processes.

Hashing 100,000 images reads all of them; knowing their hashes a second time takes one `stat` per file.
"""

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.utils.atomic import write_text
from benchmark.utils.console import notify, progress
from benchmark.utils.parallel import parallel_imap

CACHE_FOLDER = ".identity"
"""Folder of the cache files within the data root."""
UNREADABLE = "unreadable"
"""Content hash of a file that is missing or must not be read."""
FORMAT = 1
"""Version of the cache files. Files of another version are computed again."""
_SETTLED = 2_000_000_000
"""Nanoseconds after which a file that was written again has another time stamp, on all common file systems."""
_MAX_BYTES = 2**28
"""Size above which a cache file is ignored: about two million images."""
_DIGEST = re.compile(r"[0-9a-f]{64}")

_State = tuple[int, int, int]
"""Size in bytes, and times of the last change of content and of attributes in nanoseconds."""


def is_digest(text: str) -> bool:
    """Whether a text has the form of a SHA-256."""
    return _DIGEST.fullmatch(text) is not None


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Iterable[Path]) -> list[str]:
    """Return the SHA-256 of every file's bytes, `UNREADABLE` for files that cannot be read. Nothing is remembered."""
    return _hashed(list(paths), hash_file)


class DigestCache:
    """Content hashes of the images of one dataset; a hash is computed again if the file's size or times differ.

    Hashes are kept in the data root or, if that cannot be written, in the user's cache folder; if neither can, nothing
    is remembered. Cache files are replaced atomically. One that is torn, damaged or of another form is ignored.
    Processes that need the same hashes wait for the one that computes them. A file that was written less than two
    seconds before it was hashed is hashed again, because its times could not show that it was written once more.

    Args:
        root: The data root.
        folder: The folder of the images, of which the cache file's name has a hash.
        name: Name of the dataset.
        digest: Function that returns the content hash of a file, 64 hexadecimal digits, or raises an OSError.
    """

    def __init__(self, root: Path, folder: Path, name: str, digest: Callable[[Path], str] = hash_file) -> None:
        self._folder = Path(os.path.normpath(folder.absolute()))
        self._digest = digest
        place = hashlib.sha256(bytes(self._folder)).hexdigest()[:16]
        self._files = [cache / f"{name}-{place}.json" for cache in cache_folders(root)]

    def __call__(self, paths: Iterable[Path]) -> list[str]:
        """Return the content hash of every file, `UNREADABLE` for files that cannot be read.

        The first call hashes in several threads, with a progress bar.
        """
        paths = list(paths)
        states = {path: _state(path) for path in paths}
        known = self._lookup(states)
        if missing := [path for path in states if path not in known]:
            with self._lock() as file:
                if file is not None:  # another process may have hashed them in the meantime
                    known = self._lookup(states)
                    missing = [path for path in states if path not in known]
                start = time.time_ns()
                known |= dict(zip(missing, _hashed(missing, self._digest), strict=True))
                if file is not None:
                    self._write(file, states, known, settled=start - _SETTLED)
        return [known[path] for path in paths]

    def _lookup(self, states: Mapping[Path, _State | None]) -> dict[Path, str]:
        """Return the known hashes of files that have not changed."""
        entries = self._entries()
        known = {}
        for path, state in states.items():
            if state is None:
                known[path] = UNREADABLE
            elif (entry := entries.get(self._key(path))) is not None and entry[:3] == list(state):
                known[path] = entry[3]
        return known

    def _entries(self) -> dict[str, list]:
        """Return size, times and hash of every file that a cache file has."""
        entries: dict[str, list] = {}
        for file in reversed(self._files):
            for key, entry in _read(file).items():
                if isinstance(entry, list) and len(entry) == 4 and is_digest(str(entry[3])):
                    entries[key] = entry
        return entries

    def _key(self, path: Path) -> str:
        return os.path.normpath(path.absolute()).removeprefix(f"{self._folder}{os.sep}")

    def _write(
        self, file: Path, states: Mapping[Path, _State | None], hashes: Mapping[Path, str], *, settled: int
    ) -> None:
        """Write the hashes of files that did not change after `settled`, and keep those of other existing files."""
        entries = {key: entry for key, entry in self._entries().items() if (self._folder / key).exists()}
        for path, state in states.items():
            if state is not None and hashes[path] != UNREADABLE and state[2] <= settled:
                entries[self._key(path)] = [*state, hashes[path]]
        content = json.dumps({"format": FORMAT, "files": entries}, separators=(",", ":"))
        with suppress(OSError):  # the disk is full: the hashes are computed again
            write_text(file, f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}")

    @contextmanager
    def _lock(self) -> Iterator[Path | None]:
        """Yield the cache file to write, locked against other processes; None if none can be written."""
        for file in self._files:
            lock = FileLock(file.with_name(f".{file.name}.lock"))
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    notify("waiting for another process that hashes the same images")
                    lock.acquire()
            except (OSError, NotImplementedError):  # a folder that is read-only, or whose file system has no locks
                continue
            try:
                yield file
            finally:
                lock.release()
            return
        notify(f"the content hashes of the images cannot be kept in {self._files[0].parent}: every run computes them")
        yield None


def cache_folders(root: Path) -> list[Path]:
    """Return the folders that may hold what is known about the datasets of a data root: its own, and the user's."""
    folders = [root / CACHE_FOLDER]
    with suppress(RuntimeError):  # there is no home folder
        folders.append(Path.home() / ".cache" / "benchmark" / CACHE_FOLDER)
    return list(dict.fromkeys(folders))


def read_bounded(file: Path) -> bytes | None:
    """Return the content of a regular file of bounded size, None if there is no such file."""
    try:
        status = file.stat()
        return file.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_BYTES else None
    except OSError:
        return None


def _read(file: Path) -> dict[str, object]:
    """Return the entries of a cache file, none if it does not exist or is not valid."""
    checksum, _, content = (read_bounded(file) or b"").partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != checksum:
        return {}
    try:
        parsed = json.loads(content)
        files = parsed["files"] if parsed["format"] == FORMAT else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return files if isinstance(files, dict) else {}


def _state(path: Path) -> _State | None:
    """Return size and times of a regular file; None if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    regular = stat.S_ISREG(status.st_mode)
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if regular else None


def _hashed(paths: Sequence[Path], digest: Callable[[Path], str]) -> list[str]:
    """Return the content hash of every file, computed in several threads, with a progress bar."""

    def hash_or_unreadable(path: Path) -> str:
        try:
            return digest(path) if _state(path) is not None else UNREADABLE
        except OSError:
            return UNREADABLE

    return list(progress(parallel_imap(hash_or_unreadable, paths), "hashing images", total=len(paths)))


def shown(names: Sequence[str], limit: int = 3) -> str:
    """Return up to `limit` names, and the number of further ones: "a, b, c and 2 more"."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more:,} more" if more > 0 else "")
