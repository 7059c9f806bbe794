"""The identity of a dataset: a hash of everything that a result depends on.

Two datasets are the same if every split has the same images, in content and relative path, with the same identities,
cameras and tracks, under the same rules for matches, wherever the images are and whatever their folder is called.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmark.data.digests import cache_folders, is_digest, read_bounded, shown
from benchmark.data.samples import VALIDATION, Sample
from benchmark.errors import UserError
from benchmark.utils.atomic import atomic_path

if TYPE_CHECKING:
    from benchmark.data.retrieval_dataset import RetrievalDataset

FORMAT = 1
"""Version of the text that is hashed."""
_MAX_BYTES = 2**29
"""Size above which a list of images is not read."""


class Entry(NamedTuple):
    """An image in a split. The path is relative to the common folder of all images."""

    split: str
    path: str
    identity: int
    camera: int
    track: int
    content: str
    """Hash of the image's content."""


@dataclass(frozen=True)
class Identity:
    """The images, labels and rules of a dataset at one time.

    Query and gallery images are one split, "test", if the protocol has one list for both, or if an option `seed`
    divides them: then the recipe tells which image is a query.
    """

    entries: tuple[Entry, ...]
    """In the order of the dataset's samples, on which training batches depend."""
    rules: dict[str, object]
    """The rules that say which gallery images are correct matches."""
    training: str
    """SHA-256 of what a training depends on: the order, labels, cameras and content of the training images."""

    @cached_property
    def content(self) -> str:
        """SHA-256 of all entries and rules."""
        return hashlib.sha256(self._text).hexdigest()

    @classmethod
    def of(cls, dataset: "RetrievalDataset") -> "Identity":
        """Take the identity of a dataset: list it, and hash its images as far as their hashes are not known.

        Raises:
            UserError: The dataset is missing or has a defect.
        """
        splits = _splits(dataset)
        paths = list(dict.fromkeys(sample.path for samples in splits.values() for sample in samples))
        contents = dict(zip(paths, dataset.contents(paths), strict=True))
        relative = _relative(paths)
        entries = tuple(
            Entry(split, relative[sample.path], sample.identity, sample.camera, sample.track, contents[sample.path])
            for split, samples in splits.items()
            for sample in samples
        )
        training = [(dataset.labels[sample.identity], sample.camera, contents[sample.path]) for sample in dataset.train]
        protocol = dataset.protocol
        rules = {
            name: getattr(protocol, name)
            for name in ("camera_rule", "query_in_gallery", "tracks", "junk", "distractors")
        }
        identity = cls(entries, rules, hashlib.sha256(_json([FORMAT, training])).hexdigest())
        identity._keep(dataset.root)
        return identity

    def differences(self, before: str, root: Path) -> str:
        """Return how the images differ from those of an earlier identity, as a clause with the names of a few.

        Args:
            before: `content` of the earlier identity.
            root: The data root, which keeps the lists of images that were used.

        Returns:
            For example "2 images changed: a.jpg, b.jpg; 1 image appeared: c.jpg"; "" if the list is not known.
        """
        earlier = _read_entries(before, root)
        return "" if earlier is None else "; ".join(_clauses(earlier, self.entries))

    @cached_property
    def _text(self) -> bytes:
        return _json([FORMAT, self.rules, self.entries])

    def _keep(self, root: Path) -> None:
        """Write the list of images next to the cache of their hashes, so that later differences have names."""
        for folder in cache_folders(root):
            file = _list_file(folder, self.content)
            if file.exists():
                return
            with suppress(OSError):
                with atomic_path(file) as temporary:
                    temporary.write_bytes(gzip.compress(self._text, compresslevel=3, mtime=0))
                return


def require_unchanged(dataset: "RetrievalDataset") -> None:
    """List a dataset again, and raise a UserError that names the images that differ from `dataset.identity`.

    A file of which only the time stamp changed does not differ.
    """
    now = dataset.reopened()
    if now.identity.content != dataset.identity.content:
        raise UserError(
            f"{dataset.folder} changed during the run: "
            f"{'; '.join(_clauses(dataset.identity.entries, now.identity.entries))}. Restore the images and continue "
            "with --resume, or delete the run's folder to run it again with the present ones"
        )


def _splits(dataset: "RetrievalDataset") -> dict[str, Sequence[Sample]]:
    training: dict[str, Sequence[Sample]] = {"train": dataset.train, VALIDATION: dataset.held_out}
    if dataset.protocol.query_in_gallery:
        return training | {"test": dataset.query}
    if "seed" in dataset.evaluation_options:
        test = sorted((*dataset.query, *dataset.gallery), key=lambda sample: str(sample.path))
        return training | {"test": test}
    return training | {"query": dataset.query, "gallery": dataset.gallery}


def _relative(paths: Iterable[Path]) -> dict[Path, str]:
    """Return every path relative to the deepest folder that contains all of them, with slashes."""
    absolute = {path: os.path.normpath(path.absolute()) for path in paths}
    base = os.path.commonpath({text.rpartition(os.sep)[0] or os.sep for text in absolute.values()})
    prefix = base.rstrip(os.sep) + os.sep
    return {path: text.removeprefix(prefix).replace(os.sep, "/") for path, text in absolute.items()}


def _clauses(before: Sequence[Entry], now: Sequence[Entry]) -> Iterator[str]:
    """Yield a clause for each kind of difference; at least one."""
    old, new = _by_path(before), _by_path(now)
    kinds: dict[str, Callable[[str], bool]] = {
        "changed": lambda path: path in old and path in new and _contents(old[path]) != _contents(new[path]),
        "vanished": lambda path: path not in new,
        "appeared": lambda path: path not in old,
        "with another split, identity or camera": lambda path: (
            path in old and path in new and _contents(old[path]) == _contents(new[path]) and old[path] != new[path]
        ),
    }
    clauses = []
    paths = sorted(old.keys() | new.keys())
    for kind, applies in kinds.items():
        if names := [path for path in paths if applies(path)]:
            clauses.append(f"{len(names):,} image{'' if len(names) == 1 else 's'} {kind}: {shown(names)}")
    yield from clauses or ["other rules for matches, or the same images in another order"]


def _by_path(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    paths: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        paths[entry.path].append(entry)
    return paths


def _contents(entries: Iterable[Entry]) -> set[str]:
    return {entry.content for entry in entries}


def _list_file(folder: Path, content: str) -> Path:
    return folder / "lists" / f"{content}.json.gz"


def _read_entries(content: str, root: Path) -> list[Entry] | None:
    """Return the images of an identity; None if no list has this hash, so that a damaged one does not count."""
    if not is_digest(content):
        return None
    for folder in cache_folders(root):
        compressed = read_bounded(_list_file(folder, content))
        if compressed is None:
            continue
        with suppress(zlib.error, ValueError, TypeError, LookupError, RecursionError):
            text = zlib.decompressobj(wbits=31).decompress(compressed, _MAX_BYTES)
            if hashlib.sha256(text).hexdigest() == content:
                return [Entry(*entry) for entry in json.loads(text)[2]]
    return None


def _json(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
