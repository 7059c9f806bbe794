"""Reading the zip and tar archives in which datasets are published."""

import bz2
import errno
import getpass
import gzip
import lzma
import os
import stat
import sys
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from benchmark.errors import UserError
from benchmark.utils.variables import PASSWORD as PASSWORD_VARIABLE
from benchmark.utils.variables import archive_password

_MAX_NAME, _MAX_PATH = 255, 2048
"""Maximum lengths of a file's name and of its path in bytes. Disks allow 255 and about 4096 with the target folder."""
_MAX_READ = 2**24
"""Bytes that are read at a time at most. A damaged or hostile header asks for more."""
_ENCRYPTED = 0x1
"""Flag bit of encrypted zip entries."""
_AES = 99
"""Compression method of zip entries that are encrypted with AES."""
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""First bytes of a compressed tar file -> the function that opens it."""


class Member(NamedTuple):
    """A file in an archive."""

    path: PurePosixPath
    """Relative path without "..", see `Archive.checked_path`."""
    size: int
    """Bytes after unpacking."""


class Archive(ABC):
    """The files in an archive; entries for folders are ignored.

    If the archive is damaged, the methods and the reading of contents raise an exception of any type; see `is_damage`.
    """

    encrypted = False
    """Whether an encrypted file has been found so far."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def members(self) -> Iterator[Member]:
        """Yield every file.

        Raises:
            UserError: The archive contains a link or a special file, or a path that would leave the target folder.
        """

    @abstractmethod
    def contents(self) -> Iterator[tuple[Member, IO[bytes]]]:
        """Yield every file with its content, which must be read before the next file is requested."""

    def checked_path(self, name: str) -> PurePosixPath:
        """Return the relative path of a member from its name, with slashes or backslashes.

        Raises:
            UserError: The path is absolute, contains "..", or is not a file name.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        parts = path.parts
        if path.is_absolute() or ".." in parts or not parts or ":" in parts[0] or "\0" in name:
            raise UserError(f"{self.path} is not unpacked: it contains {name!r}, which lies outside the target folder")
        if max(len(os.fsencode(part)) for part in parts) > _MAX_NAME or len(os.fsencode(path)) > _MAX_PATH:
            raise UserError(f"{self.path} is not unpacked: it contains a name that is too long: {name[:60]!r}...")
        return path

    def unsupported(self, name: str, kind: str) -> UserError:
        """Return the error about a member that is neither a file nor a folder."""
        return UserError(f"{self.path} is not unpacked: it contains {name!r}, {kind}; use the dataset's own archive")


def is_damage(error: Exception) -> bool:
    """Whether an error is about the archive, of which tarfile and zipfile raise many types, and not about the disk."""
    return not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)  # of a position that does not exist


class ZipArchive(Archive):
    """A zip file. Of the encryption methods, Python supports only the traditional one."""

    def members(self) -> Iterator[Member]:
        with zipfile.ZipFile(self.path) as file:
            for path, entry in self._files(file):
                self._password_for(entry)  # asks for the password before a progress bar occupies the terminal
                yield Member(path, entry.file_size)

    def contents(self) -> Iterator[tuple[Member, IO[bytes]]]:
        with zipfile.ZipFile(self.path) as file:
            for path, entry in self._files(file):
                with self._open_entry(file, entry) as content:
                    yield Member(path, entry.file_size), content

    def _files(self, file: zipfile.ZipFile) -> Iterator[tuple[PurePosixPath, zipfile.ZipInfo]]:
        for entry in file.infolist():
            if entry.is_dir():
                continue
            path = self.checked_path(entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise self.unsupported(entry.filename, "a link" if kind == stat.S_IFLNK else "a special file")
            if entry.compress_type == _AES:
                raise UserError(
                    f"{self.path} is encrypted with AES, which Python does not support: unpack it with 7-Zip into the "
                    "data root, then run `benchmark data check`"
                )
            yield path, entry

    def _open_entry(self, file: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
        password = self._password_for(entry)
        try:
            return file.open(entry, pwd=password)
        except NotImplementedError as error:
            raise UserError(
                f"{self.path} is compressed by a method that Python does not support ({error}): unpack it yourself "
                "into the data root"
            ) from error
        except RuntimeError as error:
            if password is None:
                raise
            raise UserError(f"{self.path}: the password is wrong; nothing was unpacked") from error

    def _password_for(self, entry: zipfile.ZipInfo) -> bytes | None:
        if not entry.flag_bits & _ENCRYPTED:
            return None
        self.encrypted = True
        return self._password

    @cached_property
    def _password(self) -> bytes:
        if (password := archive_password()) is not None:
            return password
        if not sys.stdin.isatty():
            raise UserError(
                f"{self.path} needs a password: run this in a terminal to enter it, or set ${PASSWORD_VARIABLE}"
            )
        return getpass.getpass(f"Password of {self.path.name}: ").encode()


class TarArchive(Archive):
    """A tar file, which may be compressed with gzip, bzip2 or xz.

    It is read from beginning to end, because a compressed archive does not allow random access. Python's tarfile takes
    a damaged or missing header for the end of the archive; here, an archive must end with a block of zeros, as tar
    files do, and a compressed one with a valid checksum.
    """

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether a file begins like a tar file; `tarfile.is_tarfile` would read a header of any size."""
        try:
            with _decompressed(path) as file:
                block = file.read(tarfile.BLOCKSIZE)
            if block != tarfile.NUL * tarfile.BLOCKSIZE:  # which is an empty archive
                tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
        except Exception as error:
            if not is_damage(error):
                raise
            return False
        return True

    def members(self) -> Iterator[Member]:
        with self._open() as file:
            yield from (Member(path, entry.size) for path, entry in self._files(file))

    def contents(self) -> Iterator[tuple[Member, IO[bytes]]]:
        with self._open() as file:
            for path, entry in self._files(file):
                content = file.extractfile(entry)
                assert content is not None  # the entry is a regular file
                yield Member(path, entry.size), content

    def _files(self, file: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo]]:
        for entry in file:
            if entry.isdir():
                continue
            path = self.checked_path(entry.name)
            if not entry.isreg():
                raise self.unsupported(entry.name, "a link" if entry.islnk() or entry.issym() else "a special file")
            if entry.issparse():  # a small archive would become a large file of zeros
                raise self.unsupported(entry.name, "a sparse file")
            if entry.size < 0:  # tarfile would read the same header for ever
                raise tarfile.ReadError(f"{entry.name!r} has a negative size")
            yield path, entry

    @contextmanager
    def _open(self) -> Iterator[tarfile.TarFile]:
        with _decompressed(self.path) as file:
            stream: Any = _TarStream(file)  # has the part of the file interface that tarfile uses
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                yield archive
                stream.finish()


def _decompressed(path: Path) -> IO[bytes]:
    """Open a file that may be compressed."""
    with path.open("rb") as file:
        start = file.read(6)
    opener: Any = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), open)
    return opener(path, "rb")


class _TarStream:
    """A file object that keeps the block read last, so that `finish` can verify the end of the archive."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.tell = file.tell
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError(f"a header asks for {size:,} bytes")
        with _damage_as_tar_error():
            self.last = self.file.read(size)
        return self.last

    def seek(self, position: int) -> int:
        with _damage_as_tar_error():  # seeking in a compressed file reads up to the position
            return self.file.seek(position)

    def finish(self) -> None:
        """Verify that tarfile stopped at a block of zeros, then read to the end, which verifies the checksum.

        Raises:
            tarfile.ReadError: The archive is damaged.
        """
        if self.last != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends early, or a header is damaged")
        while self.read(2**20):
            pass


@contextmanager
def _damage_as_tar_error() -> Iterator[None]:
    """Raise the errors of gzip and bz2 about damaged data, which are `OSError`s without errno, as `ReadError`s."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise tarfile.ReadError(str(error)) from error
