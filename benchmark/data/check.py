"""Comparing a dataset on disk with what is published."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path

from benchmark.data.broken_images import broken_images
from benchmark.data.card import Split
from benchmark.data.check_report import CheckReport
from benchmark.data.retrieval_dataset import SPLITS, RetrievalDataset

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
