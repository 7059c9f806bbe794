"""Archives that datasets are published in."""

import bz2
import getpass
import gzip
import lzma
import os
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, NamedTuple

from benchmark.errors import UserError


class Member(NamedTuple):
    """A file in an archive."""

    path: PurePosixPath
    """Relative, and without steps upwards."""
    size: int
    """Bytes, unpacked."""


class Archive(ABC):
    """The files in an archive. Folders are made as the files need them.

    All methods, and reading a file's content, raise one of the errors in `broken` where the archive is damaged.
    """

    broken: ClassVar[tuple[type[Exception], ...]]
    encrypted = False
    """Whether a file was found to be encrypted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def members(self) -> Iterator[Member]:
        """Every file.

        Raises:
            UserError: There is something that is no file and no folder, or a name that leads out of the archive.
        """

    @abstractmethod
    def contents(self) -> Iterator[tuple[Member, IO[bytes]]]:
        """Every file with its content, which is to be read before the next is asked for."""

    def safe(self, name: str) -> PurePosixPath:
        """The path that a member's name stands for; separators may be those of Windows.

        Raises:
            UserError: It is absolute, leads upwards, or is no name of a file.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        parts = path.parts
        if path.is_absolute() or ".." in parts or not parts or ":" in parts[0] or "\0" in name:
            raise UserError(f"{self.path} is not unpacked: it holds {name!r}, which would lie outside of its folder")
        return path

    def refuse(self, name: str, kind: str) -> UserError:
        """The error about a member that is no file and no folder."""
        return UserError(f"{self.path} is not unpacked: it holds {name!r}, {kind}, as no dataset's own archive does")


_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""How a file begins -> what reads it."""


class TarArchive(Archive):
    """A tar file, read from its beginning to its end: there is no way to find a file in a compressed one.

    Python's tarfile takes a damaged or missing header for the end of the archive. Here an archive must end as tar files
    do, by a block of zeros, and a compressed one by its checksum.
    """

    broken = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)

    def members(self) -> Iterator[Member]:
        with self._open() as file:
            yield from (Member(path, entry.size) for path, entry in self._files(file))

    def contents(self) -> Iterator[tuple[Member, IO[bytes]]]:
        with self._open() as file:
            for path, entry in self._files(file):
                content = file.extractfile(entry)
                assert content is not None  # since it is a file
                yield Member(path, entry.size), content

    def _files(self, file: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo]]:
        for entry in file:
            if entry.isdir():
                continue
            path = self.safe(entry.name)
            if not entry.isreg():
                raise self.refuse(entry.name, "a link" if entry.islnk() or entry.issym() else "a special file")
            yield path, entry

    @contextmanager
    def _open(self) -> Iterator[tarfile.TarFile]:
        with self.path.open("rb") as file:
            start = file.read(6)
        reader: Any = next((reader for magic, reader in _COMPRESSED.items() if start.startswith(magic)), open)
        with reader(self.path, "rb") as file:
            blocks: Any = _Blocks(file)  # as much of a file as tarfile needs
            with tarfile.open(fileobj=blocks, mode="r:") as archive:
                yield archive
                blocks.finish()


class _Blocks:
    """A file that remembers what was last read of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.tell = file.tell
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        with _damage_is_an_error_of_tarfile():
            self.last = self.file.read(size)
        return self.last

    def seek(self, position: int) -> int:
        with _damage_is_an_error_of_tarfile():  # a compressed file is read up to the position
            return self.file.seek(position)

    def finish(self) -> None:
        """Read to the end; what was read last, where tarfile found no more headers, must be what ends an archive."""
        if self.last != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends in the middle, or a header is damaged")
        while self.read(2**20):
            pass


@contextmanager
def _damage_is_an_error_of_tarfile() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise tarfile.ReadError(str(error)) from error  # how gzip and bzip2 say that data are damaged


PASSWORD = "BENCHMARK_ARCHIVE_PASSWORD"
"""The environment variable that is taken for the password before somebody is asked for it."""
_ENCRYPTED = 0x1
_AES = 99


class ZipArchive(Archive):
    """A zip file. The encryption that Python reads is the traditional one."""

    # zipfile raises NotImplementedError for a compression, or a version of the format, that it cannot read.
    broken = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, ValueError)

    def members(self) -> Iterator[Member]:
        with zipfile.ZipFile(self.path) as file:
            for path, entry in self._files(file):
                self._key(entry)  # a password is asked for before anything is drawn on the screen
                yield Member(path, entry.file_size)

    def contents(self) -> Iterator[tuple[Member, IO[bytes]]]:
        with zipfile.ZipFile(self.path) as file:
            for path, entry in self._files(file):
                with self._content(file, entry) as content:
                    yield Member(path, entry.file_size), content

    def _content(self, file: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
        password = self._key(entry)
        try:
            return file.open(entry, pwd=password)
        except NotImplementedError as error:
            raise UserError(f"{self.path} is compressed in a way that Python does not read ({error})") from error
        except RuntimeError as error:
            if password is None:
                raise
            raise UserError(f"{self.path}: the password is wrong; nothing was unpacked") from error

    def _key(self, entry: zipfile.ZipInfo) -> bytes | None:
        """The password, for an entry that needs it; the user is asked once."""
        if not entry.flag_bits & _ENCRYPTED:
            return None
        self.encrypted = True
        return self._password

    def _files(self, file: zipfile.ZipFile) -> Iterator[tuple[PurePosixPath, zipfile.ZipInfo]]:
        for entry in file.infolist():
            if entry.is_dir():
                continue
            path = self.safe(entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise self.refuse(entry.filename, "a link" if kind == stat.S_IFLNK else "a special file")
            if entry.compress_type == _AES:
                raise UserError(
                    f"{self.path} is encrypted with AES, which Python does not read: unpack it with 7-Zip into the "
                    "data root, and then run `benchmark data check`"
                )
            yield path, entry

    @cached_property
    def _password(self) -> bytes:
        if PASSWORD in os.environ:
            return os.environ[PASSWORD].encode()
        if not sys.stdin.isatty():
            raise UserError(
                f"{self.path} needs a password: run this in a terminal, which asks for it, or set ${PASSWORD}"
            )
        return getpass.getpass(f"Password of {self.path.name}: ").encode()
