"""What unpacking needs to know of an archive."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar, NamedTuple

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
