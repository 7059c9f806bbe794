"""The contract of a dataset."""

import inspect
import shlex
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from benchmark.data.card import Card, Split
from benchmark.data.samples import Defect, Listing, Sample, Skipped
from benchmark.errors import UserError
from benchmark.retrieval.protocol import Protocol

SPLITS = ("train", "query", "gallery")


class RetrievalDataset(ABC):
    """Three lists of labelled images. Subclasses register with `DATASETS`, fill in the class attributes and `scan`.

    Constructor arguments other than `root` are options in a recipe; they are validated against their type hints, so
    every one needs a hint and a default, and is kept as an attribute of its name. An option that is not at its default
    makes another benchmark of the set: leaderboards keep it apart (see `variant`). An option "seed" whose default is
    None gets the run's seed. The class docstring says in words what `card` says in numbers.

    Args:
        root: The data root; this set lives below it, see `folder`.
    """

    name: ClassVar[str]
    """The name it is registered under, which is also the name of its folder."""
    card: ClassVar[Card]
    protocol: Protocol = Protocol()
    """Of the class, or of the instance where options change it."""
    protocol_from_data: ClassVar[bool] = False
    """Whether the images tell the protocol, as where some lists have cameras and others have none."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Recipe fragment for training on this set, merged over the engine's defaults."""
    method_arguments: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Arguments that suit a method to this set, by the method's name; the user's own come after them."""
    judged_by: ClassVar[tuple[str, ...]] = ()
    """Options that change how a trained network is judged, and nothing about its training."""
    unpacked: ClassVar[tuple[str, ...]] = ()
    """Names of the folder that the official archive unpacks to."""
    parts: tuple[str | tuple[str, ...], ...] = ()
    """Files and folders that must be in `folder`, by which it is also recognised; any one of several places."""
    closed_set: bool = False
    """Whether training and test may show the same identities, as in classification; retrieval keeps them apart."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @cached_property
    def folder(self) -> Path:
        """Where the images are: the folder that has most of `parts`.

        It is `<root>/<name>`, a folder in that, or what the official archive unpacks to, in the root; of several that
        are as good, what the official archive unpacks to.
        """
        return max(self.places(), key=lambda place: (len(self.parts) - len(self._missing(place)), place.is_dir()))

    def places(self) -> list[Path]:
        """Where the set may lie, whether it does or not."""
        own = self.root / self.name
        below = sorted(path for path in own.iterdir() if path.is_dir()) if own.is_dir() else []
        official = [path for path in below if path.name in self.unpacked]
        others = [path for path in below if path not in official]
        return [*official, own, *others, *(self.root / name for name in self.unpacked)]

    def copies(self) -> list[Path]:
        """Other places that hold all of `parts`."""
        return [place for place in self.places() if self.parts and place != self.folder and not self._missing(place)]

    def identity_name(self, identity: int) -> str:
        """What people call an identity."""
        return str(identity)

    def camera_name(self, camera: int) -> str:
        """What people call a camera."""
        return f"c{camera}"

    def find(self, *places: str) -> Path:
        """The first of these below `folder` that exists; the first of all where none does."""
        paths = [self.folder / place for place in places]
        return next((path for path in paths if path.exists()), paths[0])

    @abstractmethod
    def scan(self, split: str) -> Iterable[Sample | Skipped | Defect]:
        """List "train", "query" or "gallery" from `folder`, which exists, in any order and without decoding.

        Where query and gallery are one list, "gallery" is not asked for. Beside samples, yield a `Skipped` for every
        file that is left out and a `Defect` for whatever is not as published. A `UserError` counts as the last defect.
        """

    def prepare(self) -> None:  # noqa: B027 - most sets have nothing to make
        """Make what can be made without a download. Cheap where there is nothing to do; safe to call twice at once."""

    def require(self) -> None:
        """Raise a UserError that says how to get the set, unless it is there."""
        if not self.folder.is_dir():
            raise UserError(
                f"{self.card.title} is not at {self.folder}\n{self.card.obtain}\n"
                f"Expected below {self.root}:\n{self.card.tree}"
            )

    def fingerprint(self) -> str | None:
        """A hash of the images' pixels and names; `None` where the set does not keep one."""
        return None

    def versions(self) -> dict[str, str]:
        """Versions of the software that made the images, where that was this suite."""
        return {}

    def expected(self) -> Mapping[str, Split]:
        """The counts that `check` compares with, under the options given."""
        return self.card.splits

    def damage(self) -> Iterator[str]:
        """Yield a sentence for each file that is not as published; for sets that know this. Slow: it may decode all."""
        return iter(())

    def variant(self) -> dict[str, Any]:
        """The options that are not at their default, but for "seed": those make another benchmark of the set."""
        options = inspect.signature(type(self)).parameters.items()
        return {
            name: getattr(self, name)
            for name, option in options
            if name not in ("root", "seed") and getattr(self, name) != option.default
        }

    @property
    def train(self) -> tuple[Sample, ...]:
        """Training images, sorted by path.

        Raises:
            UserError: The set is not there, is not as published, or an identity is in both training and test.
        """
        return self._usable["train"]

    @property
    def query(self) -> tuple[Sample, ...]:
        """Query images, sorted by path; raises like `train`."""
        return self._usable["query"]

    @property
    def gallery(self) -> tuple[Sample, ...]:
        """Gallery images, sorted by path; raises like `train`."""
        return self._usable["gallery"]

    @cached_property
    def labels(self) -> dict[int, int]:
        """Training identity -> label 0 .. N-1, by sorted identity: the same in every run and process."""
        return {identity: label for label, identity in enumerate(sorted({sample.identity for sample in self.train}))}

    @cached_property
    def listings(self) -> dict[str, Listing]:
        """What was found of each split, usable or not.

        Raises:
            UserError: The set is not there.
        """
        self.require()
        listings = {split: Listing.of(self._guarded(split)) for split in SPLITS[:2]}
        one_list = self.protocol.query_in_gallery
        return listings | {"gallery": listings["query"] if one_list else Listing.of(self._guarded("gallery"))}

    def counts(self) -> dict[str, Split]:
        """What was found, usable or not: every split, and all together where a figure for that is published."""
        samples = {split: listing.samples for split, listing in self.listings.items()}
        if "all" in self.expected():
            samples["all"] = tuple(chain.from_iterable(samples.values()))
        return {split: Split.of(found) for split, found in samples.items()}

    def defects(self) -> Iterator[str]:
        """Yield a sentence for everything, but counts, because of which the set cannot be used."""
        listings = self.listings
        missing = self._missing(self.folder)
        if missing:  # all other defects follow from that
            yield from (f"{self.folder} has no {' or '.join(places)}" for places in missing)
            return
        yield from dict.fromkeys(chain.from_iterable(listing.defects for listing in listings.values()))
        for split, listing in listings.items():
            if not (listing.samples or listing.defects):
                yield f"{self.folder}: there are no {split} images"
        yield from self._shared_identities()
        queries = len(listings["query"].samples)
        if queries and listings["gallery"].samples and self.unmatched() == queries:
            yield f"{self.folder}: no query has a correct answer in the gallery: {self._why_unmatched()}"

    def unmatched(self) -> int:
        """How many queries have no correct answer in the gallery under the protocol."""
        gallery = self.listings["gallery"].samples
        of_identity = Counter(sample.identity for sample in gallery)
        of_camera = Counter((sample.identity, sample.camera) for sample in gallery)
        ignored = 1 if self.protocol.query_in_gallery else 0  # the query itself
        return sum(
            of_identity[sample.identity]
            <= (of_camera[sample.identity, sample.camera] if self.protocol.camera_rule else ignored)
            for sample in self.listings["query"].samples
        )

    @cached_property
    def _usable(self) -> dict[str, tuple[Sample, ...]]:
        defects = list(self.defects())
        if defects:
            more = f" (and {len(defects) - 1} more)" if len(defects) > 1 else ""
            options = "".join(f" --set {shlex.quote(f'{name}={value}')}" for name, value in self.variant().items())
            raise UserError(f"{defects[0]}{more}: `benchmark data check {self.name}{options}` says what is expected")
        return {split: listing.samples for split, listing in self.listings.items()}

    def _missing(self, folder: Path) -> list[tuple[str, ...]]:
        parts = [(part,) if isinstance(part, str) else part for part in self.parts]
        return [places for places in parts if not any((folder / place).exists() for place in places)]

    def _guarded(self, split: str) -> Iterator[Sample | Skipped | Defect]:
        try:
            yield from self.scan(split)
        except UserError as error:
            yield Defect(str(error))

    def _shared_identities(self) -> Iterator[str]:
        train, *test = ({sample.identity for sample in listing.samples} for listing in self.listings.values())
        shared = sorted(train & set().union(*test))
        if shared and not self.closed_set:
            whose = "1 identity is" if len(shared) == 1 else f"{len(shared):,} identities are"
            yield f"{self.folder}: {whose} in both training and test, such as {self.identity_name(shared[0])}"

    def _why_unmatched(self) -> str:
        query, gallery = self.listings["query"].samples, self.listings["gallery"].samples
        if not {sample.identity for sample in query} & {sample.identity for sample in gallery}:
            return "no identity is in both lists"
        if self.protocol.query_in_gallery:
            return "every identity has a single image"
        if len({sample.camera for sample in (*query, *gallery)}) == 1:
            return "all images are from one camera, and answers from a query's own camera do not count"
        return "every answer is from its query's own camera, and such answers do not count"
