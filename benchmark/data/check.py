"""Comparing a dataset on disk with what is published."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

from tabulate import tabulate

from benchmark.data.card import Split
from benchmark.data.images import broken_images
from benchmark.data.retrieval_dataset import SPLITS, RetrievalDataset


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Expected against found; printing it gives the tree, a table, the notes and the first differences."""

    folder: str
    tree: str
    """What is expected below the data root."""
    expected: Mapping[str, Split]
    found: Mapping[str, Split]
    differences: tuple[str, ...]
    """The first defects, each a sentence; empty where the set is as published."""
    more: int
    """How many more there are."""
    warnings: tuple[str, ...]
    """Counts that are not as published, where the literature disagrees about them."""
    notes: tuple[str, ...]
    """What a careful user wants to know and is nothing wrong, such as what was skipped."""
    broken: tuple[str, ...] = ()
    """Every image that cannot be decoded, with the reason; known only where all were decoded."""

    @property
    def ok(self) -> bool:
        return not self.differences and not self.broken

    def __str__(self) -> str:
        rows = [
            (split, field.name, *self._expected(split, field.name), shown_count(field.name, getattr(found, field.name)))
            for split, found in self.found.items()
            for field in fields(Split)
        ]
        headers = ("split", "count of", *(["expected"] if self.expected else []), "found")
        parts = [
            f"Expected below the data root:\n\n{_indented(self.tree)}",
            f"Found in {self.folder}:\n\n" + tabulate(rows, headers=headers),
            "\n".join(f"note: {note}" for note in self.notes),
            "\n".join(f"warning: {warning}" for warning in self.warnings),
            "\n".join(f"broken: {image}" for image in self.broken),
            "\n".join(f"defect: {difference}" for difference in self.differences)
            + (f"\nand {self.more:,} more" if self.more else ""),
            "" if not self.ok else "all as expected" if self.expected and not self.warnings else "no defects",
        ]
        return "\n\n".join(part for part in parts if part)

    def _expected(self, split: str, field: str) -> list[int | str]:
        """The cell of what is expected; none for the user's own images, of which nothing is published."""
        if not self.expected:
            return []
        value = getattr(self.expected.get(split), field, None)
        return ["not published" if value is None else shown_count(field, value)]


def shown_count(field: str, value: int) -> int | str:
    """A count as tables show it: a set with one camera is one that says nothing of cameras."""
    return "-" if field == "cameras" and value == 1 else value


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


FIRST = 3
"""Differences that are told."""
DISPUTE = 0.01
"""Share by which a disputed count may be off."""


def check(dataset: RetrievalDataset, decode: bool = False) -> CheckReport:
    """Compare what is on disk with what is published; with `decode`, open every image.

    Raises:
        UserError: The set is not there.
    """
    found = dataset.counts()
    wrong, disputed = _differences(dataset)
    differences = tuple(chain(dataset.defects(), wrong, dataset.damage()))
    broken: dict[Path, str] = {}
    if decode:
        samples = chain.from_iterable(listing.samples for listing in dataset.listings.values())
        broken = broken_images(sorted({sample.path for sample in samples}))
    return CheckReport(
        folder=str(dataset.folder),
        tree=dataset.card.tree,
        expected=dataset.expected(),
        found=found,
        differences=differences[:FIRST],
        more=len(differences[FIRST:]),
        warnings=tuple(disputed),
        notes=tuple(_notes(dataset)),
        broken=tuple(broken.values()),
    )


def warnings(dataset: RetrievalDataset) -> list[str]:
    """What to tell before working with the set: what was skipped, and where counts are not the published ones.

    Each begins with "note: " or "warning: ".

    Raises:
        UserError: The set is not there.
    """
    notes = [f"note: {note}" for note in _notes(dataset)]
    return [*notes, *(f"warning: {said}" for said in chain.from_iterable(_differences(dataset)))]


def _differences(dataset: RetrievalDataset) -> tuple[list[str], list[str]]:
    """Counts that are not as published: those that are wrong, and those about which the literature disagrees."""
    wrong, disputed = [], []
    found = dataset.counts()
    for split, expected in dataset.expected().items():
        if split == "gallery" and dataset.protocol.query_in_gallery:  # the same as "query"
            continue
        for field in fields(Split):
            want, have = getattr(expected, field.name), getattr(found[split], field.name)
            if want is None or want == have:
                continue
            said = f"{split}: expected {want:,} {field.name}, found {have:,}"
            reason = dataset.card.disputed.get((split, field.name))
            if reason is not None and abs(want - have) <= DISPUTE * want:
                disputed.append(f"{said}; {reason}")
            else:
                wrong.append(said)
    return wrong, disputed


def _notes(dataset: RetrievalDataset) -> Iterator[str]:
    yield from (f"another copy, at {place}, is not used" for place in dataset.copies())
    one_list = dataset.protocol.query_in_gallery
    for split in SPLITS if not one_list else SPLITS[:2]:
        name = "query and gallery" if one_list and split == "query" else split
        for reason, files in sorted(dataset.listings[split].skipped.items()):
            yield f"{name}: {files:,} file{'' if files == 1 else 's'} skipped: {reason}"
    images = Counter(sample.identity for sample in dataset.listings["train"].samples)
    single = sum(count == 1 for count in images.values())
    if single:
        yield f"train: {single:,} of {len(images):,} identities have a single image, which fills their batches alone"
    unmatched = dataset.unmatched()
    if unmatched:
        queries = len(dataset.listings["query"].samples)
        yield f"query: {unmatched:,} of {queries:,} have no correct answer in the gallery and will not count"
