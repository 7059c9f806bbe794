"""Zip archives, those with a password included."""

import getpass
import os
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePosixPath
from typing import IO

from benchmark.data.archives.archive import Archive, Member
from benchmark.errors import UserError

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
