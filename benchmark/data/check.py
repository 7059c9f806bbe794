"""Checks of a dataset: whether it is usable, and whether it is the published one."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import chain
from pathlib import Path

from tabulate import tabulate

from benchmark.data.card import Split
from benchmark.data.contents import headers, repeated_images
from benchmark.data.files import NOT_READ, candidate_folders, missing_paths
from benchmark.data.reading import Reading
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import SPLITS, VALIDATION, Listing, Sample
from benchmark.errors import UserError
from benchmark.utils.escape import terminal

MAX_DEFECTS_SHOWN = 3
"""Number of defects that a report prints."""
DISPUTED_TOLERANCE = 0.01
"""Relative difference up to which a disputed count gives a warning instead of a defect."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Comparison of a dataset on disk with its card. `str` gives the tree, the counts, notes and the first defects."""

    folder: str
    tree: str
    """Expected folders and files below the data root."""
    expected: Mapping[str, Split]
    """Published sizes; empty for the user's own images."""
    found: Mapping[str, Split]
    defects: tuple[str, ...]
    """A sentence for each deviation from the published dataset."""
    warnings: tuple[str, ...]
    """Facts that may be mistakes, and counts that differ from the published ones within the tolerance."""
    notes: tuple[str, ...]
    """Harmless facts that users should know, such as the number of queries without a match."""
    reading: Reading
    """What was read, what was ignored, and which evaluation follows."""
    broken: tuple[str, ...] = ()
    """The error of each image that cannot be decoded; empty if images were not decoded."""

    @property
    def ok(self) -> bool:
        """Whether the dataset has no defects and, as far as images were decoded, no broken images."""
        return not self.defects and not self.broken

    def __str__(self) -> str:
        rows = [
            (split, field.name, *self._expected_cell(split, field.name), shown_count(field.name, found))
            for split, size in self.found.items()
            for field, found in zip(fields(Split), astuple(size), strict=True)
        ]
        headers = ("split", "count of", *(["expected"] if self.expected else []), "found")
        further = len(self.defects) - MAX_DEFECTS_SHOWN
        parts = [
            f"Expected below the data root:\n\n{_indented(self.tree)}",
            f"Found in {terminal(self.folder)}:\n\n" + tabulate(rows, headers=headers),
            "\n".join(self.reading.lines()),
            _lines("note", self.notes),
            _lines("warning", self.warnings),
            _lines("broken", self.broken),
            _lines("defect", self.defects[:MAX_DEFECTS_SHOWN]) + (f"\nand {further:,} more" if further > 0 else ""),
            "" if not self.ok else "all as expected" if self.expected and not self.warnings else "no defects",
        ]
        return "\n\n".join(part for part in parts if part)

    def _expected_cell(self, split: str, field: str) -> list[int | str]:
        """Return the cell in the column "expected", or no cell if nothing is published and there is no such column."""
        if not self.expected:
            return []
        count = getattr(self.expected.get(split), field, None)
        return ["not published" if count is None else shown_count(field, count)]


def check(dataset: RetrievalDataset, decode: bool = False) -> CheckReport:
    """Compare a dataset on disk with its card.

    Args:
        dataset: The dataset.
        decode: Whether to decode every image to find broken ones.

    Raises:
        UserError: The dataset is missing.
    """
    wrong_counts, disputed_counts = _compare_sizes(dataset)
    paths = list(dict.fromkeys(sample.path for listing in dataset.listings.values() for sample in listing.samples))
    broken: dict[Path, str] = {}
    if decode:
        from benchmark.data.images import broken_images  # imports torch

        broken = broken_images(paths)
    repeated = (
        repeated_images(dataset.listings, dataset.protocol, dataset.contents)
        if decode or not dataset.expected_sizes()
        else ()
    )
    return CheckReport(
        folder=str(dataset.folder),
        tree=dataset.card.tree,
        expected=dataset.expected_sizes(),
        found=sizes(dataset),
        defects=(*find_defects(dataset), *wrong_counts, *dataset.damaged_files()),
        warnings=(*disputed_counts, *_suspicious(dataset), *repeated, *_foreign(dataset)),
        notes=(*_notes(dataset), *_special_images(dataset, paths)),
        reading=dataset.reading(),
        broken=tuple(broken.values()),
    )


def remarks(dataset: RetrievalDataset) -> list[str]:
    """Return what users should know before training: what was read and ignored, the protocol, notes and warnings.

    Each line begins with its kind, such as "ignored: ", "note: " or "warning: ".

    Raises:
        UserError: The dataset is missing.
    """
    warnings = chain(_suspicious(dataset), *_compare_sizes(dataset), _foreign(dataset))
    return [
        *dataset.reading().lines(),
        *(f"note: {terminal(note)}" for note in _notes(dataset)),
        *(f"warning: {terminal(warning)}" for warning in warnings),
    ]


def require_no_defects(dataset: RetrievalDataset) -> None:
    """Raise a UserError with the first defect if the dataset is not usable. Counts are not compared."""
    defects = list(find_defects(dataset))
    if defects:
        more = f" (and {len(defects) - 1} more)" if len(defects) > 1 else ""
        settings = dataset.changed_options().items()
        options = "".join(f" --set {shlex.quote(f'{name}={value}')}" for name, value in settings)
        command = f"benchmark data check {dataset.name}{options}"
        raise UserError(f"{terminal(defects[0])}{more}: run `{command}` for details")


def find_defects(dataset: RetrievalDataset) -> Iterator[str]:
    """Yield a sentence for every reason why the dataset is not usable. Counts are not compared.

    Raises:
        UserError: The dataset is missing.
    """
    listings = dataset.listings
    missing = missing_paths(dataset.folder, dataset.required_paths)
    if missing:  # all other defects would follow from these
        yield from (
            f"{dataset.folder} has no {' or '.join(paths)}{_similar(dataset.folder, paths)}" for paths in missing
        )
        return
    yield from dict.fromkeys(chain.from_iterable(listing.defects for listing in listings.values()))
    for split, listing in listings.items():
        if not (listing.samples or listing.defects):
            ignored = "; ".join(dataset.reading().ignored[:3])
            yield f"{dataset.folder}: there are no {split} images" + (f" (ignored: {ignored})" if ignored else "")
    yield from _shared_identities(dataset)
    queries = len(listings["query"].samples)
    if queries and listings["gallery"].samples and unmatched_queries(dataset) == queries:
        yield f"{dataset.folder}: no query has a correct match in the gallery: {_no_match_reason(dataset)}"


def _similar(folder: Path, paths: Sequence[str]) -> str:
    """Return the end of a message about missing paths: the name that differs only in case, if there is one."""
    names = {path.name.casefold(): path.name for path in folder.iterdir()}
    similar = next((names[path.casefold()] for path in paths if path.casefold() in names), None)
    return f"; did you mean {similar}? Rename it" if similar else ""


def unmatched_queries(dataset: RetrievalDataset) -> int:
    """Return the number of queries without a correct match in the gallery under the dataset's protocol."""
    protocol = dataset.protocol
    gallery = dataset.listings["gallery"].samples
    by_identity = Counter(sample.identity for sample in gallery)
    by_camera = Counter((sample.identity, sample.camera) for sample in gallery)

    def has_no_match(query: Sample) -> bool:
        if protocol.camera_rule:
            ignored = by_camera[query.identity, query.camera]
        else:
            ignored = 1 if protocol.query_in_gallery else 0  # the query itself
        return by_identity[query.identity] <= ignored

    return sum(map(has_no_match, dataset.listings["query"].samples))


def sizes(dataset: RetrievalDataset) -> dict[str, Split]:
    """Return the sizes of the splits on disk, and of "all" together if that size is published."""
    found = {split: Split.of(listing.samples) for split, listing in dataset.listings.items()}
    return found | {"all": Split.of(dataset.all_samples())} if "all" in dataset.expected_sizes() else found


def shown_count(field: str, count: int) -> int | str:
    """Return a count as tables show it: "-" for a single camera, because the dataset then has no camera labels."""
    return "-" if field == "cameras" and count == 1 else count


def is_published(dataset: RetrievalDataset, found: Mapping[str, Split]) -> bool:
    """Whether images are those that the dataset's card describes, by the counts of their splits.

    Args:
        dataset: The dataset; its images are not read.
        found: Sizes of "train", "query" and "gallery", and of "validation" if training images are held out.
    """
    if VALIDATION in found:
        train, held_out = found["train"], found[VALIDATION]
        # Cameras of the two are the same in all but tiny datasets.
        cameras = max(train.cameras or 0, held_out.cameras or 0)
        images, identities = (
            (getattr(train, name) or 0) + (getattr(held_out, name) or 0) for name in ("images", "identities")
        )
        found = {**found, "train": Split(images, identities, cameras)}
    try:
        expected = dataset.expected_sizes()
    except UserError:  # a generated dataset, whose sizes are known once it is generated
        return True
    return not _compare(dataset, {split: size for split, size in expected.items() if split in SPLITS}, found)[0]


def _foreign(dataset: RetrievalDataset) -> Iterator[str]:
    if not is_published(dataset, sizes(dataset)):
        yield (
            f"by their counts, these are not the published images of {dataset.card.title}: results go to a leaderboard "
            f"of their own, {dataset.name}-nonstandard"
        )


def _compare_sizes(dataset: RetrievalDataset) -> tuple[list[str], list[str]]:
    """Return the differences that are defects, and those within the tolerance for disputed counts."""
    on_disk = sizes(dataset)  # first, because it raises if the dataset is missing
    return _compare(dataset, dataset.expected_sizes(), on_disk)


def _compare(
    dataset: RetrievalDataset, published: Mapping[str, Split], on_disk: Mapping[str, Split]
) -> tuple[list[str], list[str]]:
    wrong, disputed = [], []
    for split, size in published.items():
        if split == "gallery" and dataset.protocol.query_in_gallery:  # the same as "query"
            continue
        for field in fields(Split):
            expected, found = getattr(size, field.name), getattr(on_disk[split], field.name)
            if expected is None or expected == found:
                continue
            difference = f"{split}: expected {expected:,} {field.name}, found {found:,}"
            explanation = dataset.card.disputed.get((split, field.name))
            if explanation is not None and abs(expected - found) <= DISPUTED_TOLERANCE * expected:
                disputed.append(f"{difference}; {explanation}")
            else:
                wrong.append(difference)
    return wrong, disputed


def _notes(dataset: RetrievalDataset) -> Iterator[str]:
    yield from (f"the copy at {folder} is not used" for folder in _unused_copies(dataset))
    counts = Counter(sample.identity for sample in dataset.listings["train"].samples)
    single = sum(count == 1 for count in counts.values())
    if single:
        yield f"train: {single:,} of {len(counts):,} identities have a single image, which is repeated within a batch"
    unmatched = unmatched_queries(dataset)
    if unmatched:
        queries = len(dataset.listings["query"].samples)
        yield f"query: {unmatched:,} of {queries:,} have no correct match in the gallery and are not scored"


def _special_images(dataset: RetrievalDataset, paths: Iterable[Path]) -> Iterator[str]:
    found = headers(paths)
    if transparent := sum(header.transparent for header in found):
        images = "1 image has" if transparent == 1 else f"{transparent:,} images have"
        yield f"{images} transparent pixels or an alpha channel; the background is {dataset.background}"
    if animated := sum(header.animated for header in found):
        images = "1 image has" if animated == 1 else f"{animated:,} images have"
        yield f"{images} several frames or pages, of which the first is used"
    if deep := sum(header.deep for header in found):
        images = "1 image has" if deep == 1 else f"{deep:,} images have"
        yield f"{images} 16 bits per channel, of which the upper 8 are used"


def _suspicious(dataset: RetrievalDataset) -> Iterator[str]:
    """Yield what may be a mistake: findings of the dataset, and images in formats that are not read."""
    yield from dict.fromkeys(chain.from_iterable(listing.suspicious for listing in dataset.listings.values()))
    for split, listing in dataset.listings.items():
        files = listing.skipped.get(NOT_READ, 0)
        if files and not (split == "gallery" and dataset.protocol.query_in_gallery):
            endings = ", ".join(sorted(listing.endings.get(NOT_READ, ())))
            images = "1 image is" if files == 1 else f"{files:,} images are"
            yield f"{split}: {images} left out, because {endings} is not read: convert them to JPEG or PNG"


def _unused_copies(dataset: RetrievalDataset) -> list[Path]:
    """Return the other folders that contain all required paths."""
    required = dataset.required_paths
    candidates = candidate_folders(dataset.root, dataset.name, dataset.archive_folders) if required else []
    return [path for path in candidates if path != dataset.folder and not missing_paths(path, required)]


def _shared_identities(dataset: RetrievalDataset) -> Iterator[str]:
    train, *test = (_identities(listing) for listing in dataset.listings.values())
    shared = sorted(train & set().union(*test))
    if shared and not dataset.closed_set:
        identities = "1 identity is" if len(shared) == 1 else f"{len(shared):,} identities are"
        example = dataset.identity_name(shared[0])
        yield f"{dataset.folder}: {identities} in both training and test, such as {example}"


def _no_match_reason(dataset: RetrievalDataset) -> str:
    query, gallery = dataset.listings["query"], dataset.listings["gallery"]
    if not _identities(query) & _identities(gallery):
        return "query and gallery have no identity in common"
    if dataset.protocol.query_in_gallery:
        return "every identity has a single image"
    if len({sample.camera for sample in (*query.samples, *gallery.samples)}) == 1:
        return "all images are from one camera, and matches from the query's camera are ignored"
    return "every match is from the query's camera, and such matches are ignored"


def _identities(listing: Listing) -> set[int]:
    return {sample.identity for sample in listing.samples}


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _lines(kind: str, texts: Iterable[str]) -> str:
    return "\n".join(f"{kind}: {terminal(text)}" for text in texts)
