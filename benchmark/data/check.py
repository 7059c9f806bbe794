"""Comparing a dataset on disk with what is published."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path

from benchmark.data.broken_images import broken_images
from benchmark.data.card import Split
from benchmark.data.check_report import CheckReport
from benchmark.data.retrieval_dataset import SPLITS, RetrievalDataset


def check(dataset: RetrievalDataset, decode: bool = False) -> CheckReport:
    """Compare what is on disk with what is published; with `decode`, open every image.

    Raises:
        UserError: The set is not there.
    """
    found = dataset.counts()
    differences = chain(dataset.defects(), _differences(dataset, disputed=False), dataset.damage())
    broken: dict[Path, str] = {}
    if decode:
        samples = chain.from_iterable(listing.samples for listing in dataset.listings.values())
        broken = broken_images(sorted({sample.path for sample in samples}))
    return CheckReport(
        folder=str(dataset.folder),
        tree=dataset.card.tree,
        expected=dataset.expected(),
        found=found,
        differences=tuple(islice(differences, 3)),
        notes=tuple(chain(_notes(dataset), _differences(dataset, disputed=True))),
        broken=tuple(broken.values()),
    )


def warnings(dataset: RetrievalDataset) -> list[str]:
    """What to tell before working with the set: what was skipped, and where counts are not the published ones.

    Raises:
        UserError: The set is not there.
    """
    return [*_notes(dataset), *_differences(dataset, disputed=False), *_differences(dataset, disputed=True)]


def _differences(dataset: RetrievalDataset, disputed: bool) -> Iterator[str]:
    """Counts that are not as published: those on which the literature agrees, or the others."""
    found = dataset.counts()
    for split, expected in dataset.expected().items():
        if split == "gallery" and dataset.protocol.query_in_gallery:  # the same as "query"
            continue
        for field in fields(Split):
            reason = dataset.card.disputed.get((split, field.name))
            if (reason is not None) != disputed:
                continue
            want, have = getattr(expected, field.name), getattr(found[split], field.name)
            if want is not None and want != have:
                yield f"{split}: expected {want:,} {field.name}, found {have:,}" + (f"; {reason}" if reason else "")


def _notes(dataset: RetrievalDataset) -> Iterator[str]:
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
