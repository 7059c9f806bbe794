"""The contract of a dataset."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import chain, islice, product
from pathlib import Path
from typing import Any, ClassVar

from benchmark.data.card import Card, Split
from benchmark.data.check_report import CheckReport
from benchmark.data.sample import Sample
from benchmark.errors import UserError
from benchmark.retrieval.protocol import Protocol

SPLITS = ("train", "query", "gallery")


class RetrievalDataset(ABC):
    """Three lists of labelled images. Subclasses register with `DATASETS`, fill in the class attributes and `scan`.

    Constructor arguments other than `root` are options in a recipe; they are validated against their type hints, so
    every one needs a hint and a default. The class docstring says in words what `card` says in numbers.

    Args:
        root: The data root; this set lives in `folder` below it.
    """

    name: ClassVar[str]
    """The name it is registered under, which is also the name of its folder."""
    card: ClassVar[Card]
    protocol: ClassVar[Protocol] = Protocol()
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Recipe fragment for training on this set, merged over the engine's defaults."""

    method_arguments: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Arguments that suit a method to this set, by the method's name; the user's own come after them."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @property
    def folder(self) -> Path:
        """Where the images are."""
        return self.root / self.name

    @abstractmethod
    def scan(self, split: str) -> list[Sample]:
        """List "train", "query" or "gallery" from `folder`, which exists, in any order and without decoding."""

    def prepare(self) -> None:  # noqa: B027 - most sets have nothing to make
        """Make what can be made without a download. Cheap where there is nothing to do; safe to call twice at once."""

    def fingerprint(self) -> str | None:
        """A hash of the images' pixels and names; `None` where the set does not keep one."""
        return None

    def versions(self) -> dict[str, str]:
        """Versions of the software that made the images, where that was this suite."""
        return {}

    def expected(self) -> Mapping[str, Split]:
        """The counts that `check` compares with."""
        return self.card.splits

    @property
    def train(self) -> tuple[Sample, ...]:
        """Training images, sorted by path.

        Raises:
            UserError: The set is not there, or an identity is in both training and test.
        """
        return self._splits["train"]

    @property
    def query(self) -> tuple[Sample, ...]:
        """Query images, sorted by path; raises like `train`."""
        return self._splits["query"]

    @property
    def gallery(self) -> tuple[Sample, ...]:
        """Gallery images, sorted by path; raises like `train`."""
        return self._splits["gallery"]

    @cached_property
    def labels(self) -> dict[int, int]:
        """Training identity -> label 0 .. N-1, by sorted identity: the same in every run and process."""
        return {identity: label for label, identity in enumerate(sorted({sample.identity for sample in self.train}))}

    def check(self) -> CheckReport:
        """Compare what is on disk with what is published.

        Raises:
            UserError: The set is not there.
        """
        self._require()
        splits = {split: self.scan(split) for split in SPLITS}
        expected, found = self.expected(), {split: Split.of(samples) for split, samples in splits.items()}
        differences = chain(_shared_identities(splits), _count_differences(expected, found), self.damage())
        return CheckReport(expected, found, tuple(islice(differences, 3)))

    def damage(self) -> Iterator[str]:
        """Yield a sentence for each file that is not as published; for sets that know this. Slow: it may decode all."""
        return iter(())

    @cached_property
    def _splits(self) -> dict[str, tuple[Sample, ...]]:
        self._require()
        splits = {split: self.scan(split) for split in SPLITS}
        for sentence in _shared_identities(splits):
            raise UserError(f"{self.folder}: {sentence}")
        return {split: tuple(sorted(samples)) for split, samples in splits.items()}

    def _require(self) -> None:
        if not self.folder.is_dir():
            raise UserError(
                f"{self.card.title} is not at {self.folder}\n{self.card.obtain}\nExpected below {self.root}:\n"
                f"{self.card.tree}"
            )


def _count_differences(expected: Mapping[str, Split], found: Mapping[str, Split]) -> Iterator[str]:
    for split, field in product(expected, ("images", "identities", "cameras")):
        want, have = getattr(expected[split], field), getattr(found[split], field)
        if want is not None and want != have:
            yield f"{split}: expected {want} {field}, found {have}"


def _shared_identities(splits: Mapping[str, list[Sample]]) -> Iterator[str]:
    train, *test = ({sample.identity for sample in splits[split]} for split in SPLITS)
    shared = sorted(train & set().union(*test))
    if shared:
        yield f"{len(shared)} identities are in both training and test, such as {shared[0]}"
