"""A file of rows of bytes that take long to compute: written in blocks, continued after a kill, mapped to be read."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from benchmark.errors import UserError
from benchmark.utils.atomic import write_text
from benchmark.utils.console import progress

ROWS_FILE, BLOCKS_FILE, DESCRIPTION_FILE = "rows.bin", "blocks.jsonl", "description.json"
"""The rows; the hash of each complete block, one per line; and what the rows depend on."""
_REMEDY = "delete the folder to create it again"


class Block(BaseModel):
    """A line of the list of blocks."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of the rows of the block."""
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """Time that computing them took."""


class RowSize(NamedTuple):
    """The size of a file of rows."""

    rows: int
    row_bytes: int
    block: int
    """Number of rows of a block; the last one may have fewer."""

    @property
    def blocks(self) -> list[range]:
        """The rows of every block."""
        return [range(start, min(start + self.block, self.rows)) for start in range(0, self.rows, self.block)]


class RowFile:
    """Rows of bytes in a folder, which is created if needed.

    A block counts once its hash is listed, after its rows are on the disk. The process that writes holds a lock of the
    folder: see `benchmark.utils.locks`. Any number of processes read, also after pickling.

    Args:
        folder: The folder.
        description: Everything that the rows depend on, as plain values.
        size: The size of the file.

    Raises:
        UserError: The folder has other rows, is damaged, or cannot be written to.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any], size: RowSize) -> None:
        self.folder, self.size = folder, size
        self._mapped: np.ndarray | None = None
        text = json.dumps({**description, "size": size._asdict()}, sort_keys=True, indent=1) + "\n"
        path = folder / DESCRIPTION_FILE
        with self._named_errors():
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_text(path, text)
            elif path.read_text(encoding="utf-8", errors="replace") != text:
                raise UserError(f"{path} describes other content than this run has: {_REMEDY}")
            self.blocks, self._listed = self._read_blocks()

    @property
    def is_complete(self) -> bool:
        """Whether all rows are there."""
        return len(self.blocks) == len(self.size.blocks)

    @property
    def missing(self) -> list[range]:
        """The rows of the blocks that are missing."""
        return self.size.blocks[len(self.blocks) :]

    @property
    def complete_rows(self) -> int:
        """Number of rows in complete blocks."""
        return min(len(self.blocks) * self.size.block, self.size.rows)

    @property
    def seconds(self) -> float:
        """The time that computing the rows took."""
        return sum(block.seconds for block in self.blocks)

    def append(self, rows: Tensor, seconds: float) -> None:
        """Write the rows of the next block to the disk, then list their hash.

        Args:
            rows: (rows of the block, row_bytes) uint8, on the CPU.
            seconds: Time that computing them took.

        Raises:
            UserError: They cannot be written.
        """
        data = rows.contiguous().numpy().tobytes()
        line = Block(sha256=hashlib.sha256(data).hexdigest(), seconds=seconds)
        with self._named_errors():
            # Rows that are not listed are those of a process that was killed, and are written again.
            self._write(ROWS_FILE, self.complete_rows * self.size.row_bytes, data)
            text = f"{line.model_dump_json()}\n".encode()
            self._write(BLOCKS_FILE, self._listed, text)
        self.blocks.append(line)
        self._listed += len(text)
        self._mapped = None  # which lacks the new rows

    def verify(self) -> None:
        """Compare the rows of all complete blocks with their hashes.

        Raises:
            UserError: They differ.
        """
        blocks = self.size.blocks[: len(self.blocks)]
        mapped = self._map()
        for number, rows in enumerate(progress(blocks, f"verifying {self.folder.name}")):
            if hashlib.sha256(mapped[rows.start : rows.stop].tobytes()).hexdigest() != self.blocks[number].sha256:
                raise self._damaged(f"the rows from {rows.start} do not match their hash")

    def read(self, numbers: Tensor) -> Tensor:
        """Return (n, row_bytes) uint8: copies of the rows with these (n,) int64 numbers, in complete blocks."""
        if self._mapped is None:
            self._mapped = self._map()
        return torch.from_numpy(self._mapped[numbers.numpy()])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": None}  # mapped by each process, because pickling the array would copy it

    def _map(self) -> np.ndarray:
        shape, path = (self.complete_rows, self.size.row_bytes), self.folder / ROWS_FILE
        with self._named_errors():
            found = path.stat().st_size if path.exists() else 0
            if found < shape[0] * shape[1]:
                raise self._damaged(f"{path.name} has {found} bytes, expected {shape[0] * shape[1]}")
            return np.memmap(path, np.uint8, "r", shape=shape) if all(shape) else np.empty(shape, np.uint8)

    def _read_blocks(self) -> tuple[list[Block], int]:
        """Return the listed blocks, and the number of bytes of their lines.

        A last line without an end is that of a process that was killed.
        """
        path = self.folder / BLOCKS_FILE
        *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
        try:
            blocks = [Block.model_validate_json(line) for line in lines]
        except ValidationError as error:
            raise self._damaged(f"{path.name} has an invalid line") from error
        if len(blocks) > len(self.size.blocks):
            raise self._damaged(f"{path.name} has more blocks than the {len(self.size.blocks)} that belong to it")
        return blocks, sum(len(line) + 1 for line in lines)

    def _write(self, name: str, offset: int, data: bytes) -> None:
        """Cut a file off at an offset, write data there, and wait until they are on the disk."""
        path = self.folder / name
        path.touch()
        with path.open("r+b") as file:
            file.truncate(offset)
            file.seek(offset)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"{self.folder} is damaged ({reason}): {_REMEDY}")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Convert an OSError, which may lack the name of the file, to a UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{error.filename or self.folder}: {error.strerror}; free space, or make the folder writable, and "
                "repeat the command"
            ) from error
