"""Tar archives, compressed or not."""

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from benchmark.data.archives.archive import Archive, Member


class TarArchive(Archive):
    """A tar file, read from its beginning to its end: there is no way to find a file in a compressed one."""

    broken = (tarfile.TarError, EOFError)

    def members(self) -> Iterator[Member]:
        with tarfile.open(self.path, "r|*") as file:
            yield from (Member(path, entry.size) for path, entry in self._files(file))

    def contents(self) -> Iterator[tuple[Member, IO[bytes]]]:
        with tarfile.open(self.path, "r|*") as file:
            for path, entry in self._files(file):
                content = file.extractfile(entry)
                assert content is not None  # since it is a file
                yield Member(path, entry.size), content

    def _files(self, file: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo]]:
        for entry in file:
            path = self.safe(entry.name)
            if entry.isdir():
                continue
            if not entry.isreg():
                raise self.refuse(entry.name, "a link" if entry.islnk() or entry.issym() else "a special file")
            yield path, entry
