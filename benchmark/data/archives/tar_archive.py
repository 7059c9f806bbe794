"""Tar archives, compressed or not."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

from benchmark.data.archives.archive import Archive, Member

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
