"""Whether a folder or file can be written to, found out before hours of work and without writing anything."""

import os
import shutil
from pathlib import Path

from benchmark.errors import UserError


def require_writable(folder: Path, option: str, needed: int = 0) -> None:
    """Check that a folder exists or can be created, and that its disk has space left.

    Args:
        folder: The folder.
        option: The option that selects it, for messages.
        needed: Space in bytes that the disk must have.

    Raises:
        UserError: It cannot be written to, or the disk is full.
    """
    # Also a link to nothing exists: a folder cannot be created in its place.
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise UserError(f"{existing}: Not a directory; choose another {option}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{existing}: Permission denied; make the folder writable, or choose another {option}")
    if (free := shutil.disk_usage(existing).free) < needed:
        raise UserError(
            f"{existing}: {free / 2**20:,.0f} MiB free, but this run needs at least {needed / 2**20:,.0f} MiB: free "
            f"some space, or choose another {option}"
        )


def require_output(file: Path, option: str = "--output") -> None:
    """Check that a file can be written.

    Raises:
        UserError: It is a folder, or its folder cannot be written to.
    """
    if file.is_dir():
        raise UserError(f"{option} {file}: is a folder; name a file in it")
    require_writable(file.parent, option)
