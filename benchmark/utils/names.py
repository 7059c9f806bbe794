"""Names that become parts of file names, pages and commands."""

import re
import unicodedata

_NAME = re.compile(r"\w[\w.+-]*")
_MAX_BYTES = 80
_PAGES = {"readme", "index", "reported", "leaderboard", "all-datasets"}
"""Names of pages that are not about one dataset."""
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
"""Names that Windows gives to devices, whatever the suffix."""


def check_name(name: str) -> str:
    """Return the name of a dataset or method unchanged.

    Raises:
        ValueError: The name cannot be part of a file name, or differs from its normal form in Unicode, so that another
            name could look the same.
    """
    if not _NAME.fullmatch(name) or unicodedata.normalize("NFKC", name) != name:
        raise ValueError("must be a name of letters, digits and _ . + - that begins with a letter or digit")
    if len(name.encode()) > _MAX_BYTES:
        raise ValueError(f"must be a name of at most {_MAX_BYTES} bytes")
    return name


def check_page_name(name: str) -> str:
    """Return the name of a dataset or leaderboard unchanged if a page can have it.

    Raises:
        ValueError: Another page or a device has the name.
    """
    folded = name.casefold()
    if folded in _PAGES:
        raise ValueError(f"{name} is the name of another page; choose another name")
    if _DEVICE.fullmatch(folded):
        raise ValueError(f"{name} is the name of a device on Windows; choose another name")
    return name


def same_file(name: str) -> str:
    """Return a key that two names share if some file systems take them for the same name."""
    return unicodedata.normalize("NFKC", name).casefold()
