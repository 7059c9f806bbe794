"""What was read of a dataset, what was ignored, and which evaluation follows."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Self

from benchmark.data.samples import Listing
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.escape import terminal

MAX_PHRASES = 50
"""Number of phrases of a kind that are kept."""
MAX_LENGTH = 300
"""Characters of a phrase that are kept."""
MAX_ENDINGS = 6
"""Number of endings of skipped files that are listed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a dataset was understood: printed by `benchmark data check` and at the start of a run, kept in the record.

    The phrases are printable, and contain no absolute paths.
    """

    read: tuple[str, ...]
    """What the images and labels were read from, and how many there are."""
    ignored: tuple[str, ...]
    """Files, columns and folders that were not used."""
    protocol: tuple[str, ...]
    """Whether the camera rule applies and why, and what is searched for what."""

    def __post_init__(self) -> None:
        for field, phrases in zip(fields(self), astuple(self), strict=True):
            object.__setattr__(self, field.name, tuple(_bounded(phrases)))

    @classmethod
    def of(
        cls,
        listings: Mapping[str, Listing],
        protocol: Protocol,
        *,
        sources: tuple[str, ...] = (),
        unused: tuple[str, ...] = (),
        no_cameras: str = "",
        held_out: float = 0.0,
    ) -> Self:
        """Describe the listings of a dataset.

        Args:
            listings: The splits "train", "query" and "gallery".
            protocol: The evaluation rules.
            sources: What images and labels were read from.
            unused: What was ignored in addition to skipped files.
            no_cameras: Why the camera rule does not apply, if it does not.
            held_out: Fraction of the training identities that are for validation.
        """
        counts = {split: len(listing.samples) for split, listing in listings.items()}
        if protocol.query_in_gallery:
            images = f"{counts['train']:,} training and {counts['query']:,} test images"
            search = "query and gallery are one list: every test image searches all others (leave-one-out)"
        else:
            images = "{train:,} training, {query:,} query and {gallery:,} gallery images".format(**counts)
            search = "query and gallery are separate: every query searches the whole gallery"
        ignored = (*_skipped(listings, protocol), *unused)
        validation = (f"{held_out:.0%} of the training identities are for validation",) if held_out else ()
        return cls((*sources, images, *validation), ignored, (_camera(listings, protocol, no_cameras), search))

    def lines(self) -> Iterator[str]:
        """Yield a line per phrase, such as "ignored: train: 2 files: not an image (.txt: 2)"."""
        for field in fields(self):
            yield from (f"{field.name}: {phrase}" for phrase in getattr(self, field.name))


def _camera(listings: Mapping[str, Listing], protocol: Protocol, no_cameras: str) -> str:
    cameras = len({sample.camera for split in ("query", "gallery") for sample in listings[split].samples})
    if protocol.camera_rule:
        return f"camera rule on, {cameras} cameras: gallery images of the query's identity and camera are ignored"
    default = "the dataset has no cameras" if cameras <= 1 else "the dataset's protocol has none"
    return f"camera rule off: {no_cameras or default}"


def _skipped(listings: Mapping[str, Listing], protocol: Protocol) -> Iterator[str]:
    """Yield the number of skipped files by split and reason, with their endings."""
    names = {"train": "train", "query": "query and gallery"} if protocol.query_in_gallery else dict.fromkeys(listings)
    for split, name in names.items():
        listing = listings[split]
        for reason, files in sorted(listing.skipped.items()):
            counts = sorted(listing.endings.get(reason, {}).items(), key=lambda item: (-item[1], item[0]))
            shown = ", ".join(f"{ending}: {count:,}" for ending, count in counts[:MAX_ENDINGS])
            more = f", {len(counts) - MAX_ENDINGS} more" if len(counts) > MAX_ENDINGS else ""
            endings = f" ({shown}{more})" if shown else ""
            yield f"{name or split}: {files:,} file{'' if files == 1 else 's'}: {reason}{endings}"


def _bounded(phrases: tuple[str, ...]) -> Iterator[str]:
    for phrase in phrases[:MAX_PHRASES]:
        text = terminal(phrase)
        yield text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"
    if len(phrases) > MAX_PHRASES:
        yield f"and {len(phrases) - MAX_PHRASES:,} more"
