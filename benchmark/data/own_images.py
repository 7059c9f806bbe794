"""What tables and folders of the user's own images have in common."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from benchmark.data.samples import Defect, Skipped, Suspicious

SPLIT_NAMES = ("train", "query", "gallery", "test")
"""Names of splits in folders and tables; images of "test" are both queries and gallery."""
_SPLIT_WORDS = {
    **{name: name for name in SPLIT_NAMES},
    **dict.fromkeys(("training", "trn"), "train"),
    **dict.fromkeys(("testing", "tst", "eval", "evaluation", "val", "valid", "validation", "dev", "holdout"), "test"),
    **dict.fromkeys(("queries", "probe", "probes"), "query"),
    **dict.fromkeys(("galleries", "database", "reference"), "gallery"),
}
"""Word in the name of a folder or split -> the split that is probably meant."""
_NO_VALUE = frozenset(
    {"nan", "none", "null", "n/a", "<na>", "na", "nat", "undefined", "unknown", "?", "-", "-1", "-1.0"}
    | {"#n/a", "#ref!", "#name?", "#value!", "#null!", "#num!", "#div/0!"}
)
"""Lower-case values that usually stand for a missing one: of programs, of spreadsheets, and -1 for junk images."""
_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")
"""A long number as spreadsheets shorten it."""


class OwnImage(NamedTuple):
    """An image as the user describes it; unknown fields are empty."""

    path: Path
    identity: str
    camera: str
    split: str


@dataclass(frozen=True, slots=True)
class OwnImages:
    """The content of a table or of folders."""

    folder: Path
    """The folder of the table, or the folder that holds splits or identities."""
    images: tuple[OwnImage, ...]
    findings: tuple[Skipped | Suspicious | Defect, ...]
    """What was skipped, and what is wrong or suspicious."""
    read: tuple[str, ...]
    """What was read, as phrases; see `Reading`."""
    ignored: tuple[str, ...] = ()
    """What was not used, as phrases."""
    no_cameras: str = ""
    """Why there are no cameras; empty if there are."""


class SameFiles:
    """Finds files that occur under several paths: through links, through `.` and `..`, or in another case."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        """Beginning of the messages."""
        self._places: dict[object, tuple[OwnImage, str]] = {}

    def finding(self, image: OwnImage, place: str) -> Suspicious | Defect | None:
        """Return what is wrong if the file of `image` occurred before, else remember it.

        Args:
            image: The image.
            place: Where it is listed, for messages.
        """
        status = os.stat(image.path)  # noqa: PTH116 - three times as fast as Path.stat
        key = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(image.path)
        earlier, where = self._places.setdefault(key, (image, place))
        if earlier is image:
            return None
        text = f"{self.prefix}{place}: this file is also listed in {where}"
        if earlier.identity != image.identity:
            return Defect(f"{text}, as {earlier.identity!r} instead of {image.identity!r}")
        if earlier.split != image.split:
            return Defect(f"{text}, in the split {earlier.split!r} instead of {image.split!r}")
        same_path = os.path.normpath(earlier.path) == os.path.normpath(image.path)
        return Defect(text) if same_path else Suspicious(f"{text}, by another name: it counts as two images")


def likely_split(name: str) -> str | None:
    """Return the split that is probably meant by a word in `name`, such as "train" for "Training_set"."""
    words = re.findall(r"[^\W\d_]+", name.casefold())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def split_question(name: str) -> str:
    """Return the end of a message about a split of another name, with the split that is probably meant."""
    similar = get_close_matches(name.casefold(), SPLIT_NAMES, n=1, cutoff=0.5)
    guess = likely_split(name) or next(iter(similar), None)
    return f"; did you mean {guess!r}?" if guess else f"; the splits are {', '.join(SPLIT_NAMES)}."


def suspicious_names(column: str, names: Iterable[str]) -> Iterator[Suspicious]:
    """Yield what is suspicious about the identities or cameras of images.

    Args:
        column: "identity" or "camera".
        names: The name of every image's identity or camera.
    """
    counts = Counter(names)
    for name, count in counts.items():
        if name.casefold() in _NO_VALUE:
            images = "1 image has" if count == 1 else f"{count:,} images have"
            yield Suspicious(f"{images} the {column} {name!r}, which looks like a missing value, but counts as a name")
    rounded = [name for name in counts if _ROUNDED.fullmatch(name)]
    if rounded:
        yield Suspicious(
            f"{len(rounded):,} names of {column} such as {rounded[0]!r} look like long numbers that a spreadsheet has "
            "rounded, so that different ones may have become equal: export the table with this column as text"
        )
    similar: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(counts):
        similar[_simplified(name)].append(name)
    groups = [group for group in similar.values() if len(group) > 1]
    if groups:
        example = " and ".join(map(repr, groups[0][:3]))
        more = "" if len(groups) == 1 else f" (and {len(groups) - 1:,} more)"
        yield Suspicious(
            f"names of {column} that differ only by leading zeros, spaces or case count as different: {example}{more}"
        )


def listed(names: Sequence[str], limit: int = 8) -> str:
    """Return names separated by commas, the first of them if there are many."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def plain(text: str) -> str:
    """Return a text without case, surrounding spaces, invisible characters and variants of characters."""
    visible = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFKC", visible).casefold().strip()


def _simplified(name: str) -> str:
    """Return a name as `plain`, without leading zeros, superfluous spaces and a decimal ".0"."""
    text = " ".join(plain(name).split())
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text)
    return re.sub(r"(?<=^\d)\.0+$|(?<=\d)\.0+$", "", text)
