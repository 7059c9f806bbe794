"""The contract of datasets."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache, wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from PIL import ImageColor
from pydantic import AfterValidator, Field

from benchmark.data.card import Card, Split
from benchmark.data.digests import DigestCache, hash_file
from benchmark.data.files import candidate_folders, missing_paths
from benchmark.data.reading import Reading
from benchmark.data.samples import VALIDATION, Finding, Listing, Sample
from benchmark.errors import UserError
from benchmark.retrieval.protocol import Protocol

if TYPE_CHECKING:
    from benchmark.data.identity import Identity


@lru_cache(maxsize=100)
def _check_color(text: str) -> str:
    """Return the one name of a color by which it is compared: a name of CSS, or "#" and six digits if it has none."""
    color = _rgb(text)
    names = [name for name in sorted(ImageColor.colormap) if _rgb(name) == color]
    return names[0] if names else "#{:02x}{:02x}{:02x}".format(*color)


def _rgb(text: str) -> tuple[int, int, int]:
    mistake = "must be an opaque color, such as black or '#808080'"
    try:
        color = ImageColor.getrgb(text)
    except ValueError:
        raise ValueError(mistake) from None
    if len(color) != 3 or max(color) > 255:  # a transparent color has four values
        raise ValueError(mistake)
    return color


Color = Annotated[str, AfterValidator(_check_color)]
"""Name of an opaque color, as in CSS."""
Fraction = Annotated[float, Field(ge=0, lt=1)]


class RetrievalDataset(ABC):
    """Training, query and gallery images with identities and cameras.

    A subclass is registered with `DATASETS`, sets the class attributes and implements `scan`. Its docstring describes
    the images, the splits and the evaluation, and is shown together with the `card`.

    Constructor parameters other than `root` are options that recipes set. Each needs a default and a type hint, against
    which recipes are validated, and is stored as an attribute of the same name. Leaderboards rank non-default options
    separately (see `non_default_options`). An option `seed` whose default is None receives the seed of the run.

    Every dataset has the options of this class's constructor. A subclass declares one only to change its default.

    Args:
        root: The data root, which contains `folder`.
        background: Color that shows through transparent pixels: a name such as black, or "#" and 6 hexadecimal digits.
        validation_fraction: Fraction of the training identities whose images are for validation and not for training.
            Choices such as the number of epochs are made on them, so that the test images are used only once, at the
            end.
    """

    name: ClassVar[str]
    """The registered name, set by `DATASETS.register_module`; also the dataset's folder in the data root."""
    card: ClassVar[Card]
    protocol: Protocol = Protocol()
    """Evaluation rules. Instances may set their own, depending on options."""
    protocol_from_data: ClassVar[bool] = False
    """Whether `protocol` depends on the images, for example on whether they have cameras."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Recipe fragment for training on this dataset, merged over the defaults of the suite."""
    students: ClassVar[Mapping[float, Mapping[str, Any]]] = {}
    """Changes to the recipe's `student` for each budget, the student's MACs as a fraction of the teacher's."""
    location_options: ClassVar[tuple[str, ...]] = ()
    """Options that say where the images are, with the default "". They are in no record and in no recipe's hash."""
    evaluation_options: ClassVar[tuple[str, ...]] = ()
    """Options that change only the evaluation; runs that differ in nothing else share one training."""
    archive_folders: ClassVar[tuple[str, ...]] = ()
    """Possible names of the top folder in the official archive."""
    required_paths: tuple[str | tuple[str, ...], ...] = ()
    """Files and folders that `folder` must contain, relative to it; a tuple lists alternatives."""
    closed_set: bool = False
    """Whether training and test images may share identities, as in classification."""

    def __init__(self, root: Path, background: Color = "white", validation_fraction: Fraction = 0.0) -> None:
        self.root = Path(root)
        self.background = _check_color(background)
        self.validation_fraction = validation_fraction

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            # mypy does not allow a method to be replaced, which is intended here.
            cls.__init__ = _with_common_options(cls.__init__)  # type: ignore[method-assign]

    @abstractmethod
    def scan(self, split: str) -> Iterable[Finding]:
        """List a split of `folder`, in any order and without decoding images.

        Yield a `Skipped` for every file that is left out, a `Defect` for every deviation from the published dataset and
        a `Suspicious` for what may be a mistake.
        A `UserError` ends the list and counts as a defect.

        Args:
            split: "train", "query" or "gallery". "gallery" is not requested if `protocol.query_in_gallery`.
        """

    def prepare(self) -> None:  # noqa: B027 - most datasets have nothing to generate
        """Render the images of a generated dataset if they are missing. Several processes may call it at once."""

    def require(self) -> None:
        """Raise a UserError that explains how to obtain the dataset if `folder` does not exist."""
        if not self.folder.is_dir():
            raise UserError(
                f"{self.card.title} is not at {self.folder}\n{self.card.obtain}\n"
                f"Expected below {self.root}:\n{self.card.tree}"
            )

    @cached_property
    def folder(self) -> Path:
        """The dataset's folder: the candidate with most of `required_paths`; of equals, the first that exists."""
        candidates = candidate_folders(self.root, self.name, self.archive_folders)
        return min(candidates, key=lambda path: (len(missing_paths(path, self.required_paths)), not path.is_dir()))

    @property
    def train(self) -> tuple[Sample, ...]:
        """Training images without those for validation, sorted by path.

        Raises:
            UserError: The dataset is missing or has a defect, or an identity is in both training and test images.
        """
        return self._usable_samples["train"]

    @property
    def held_out(self) -> tuple[Sample, ...]:
        """Images of the training identities that are for validation, sorted by path. Raises like `train`."""
        return self._usable_samples[VALIDATION]

    @property
    def query(self) -> tuple[Sample, ...]:
        """Query images, sorted by path. Raises like `train`."""
        return self._usable_samples["query"]

    @property
    def gallery(self) -> tuple[Sample, ...]:
        """Gallery images, sorted by path. Raises like `train`."""
        return self._usable_samples["gallery"]

    @cached_property
    def labels(self) -> dict[int, int]:
        """Training identity -> label 0 .. N-1. Identities are numbered in sorted order, the same in every run."""
        return {identity: label for label, identity in enumerate(sorted({sample.identity for sample in self.train}))}

    @cached_property
    def listings(self) -> dict[str, Listing]:
        """The findings of `scan` in each split, including skipped files and defects.

        Raises:
            UserError: The dataset is missing.
        """
        self.require()
        train, query = (Listing.from_scan(self.scan, split) for split in ("train", "query"))
        gallery = query if self.protocol.query_in_gallery else Listing.from_scan(self.scan, "gallery")
        return {"train": train, "query": query, "gallery": gallery}

    @property
    def background_color(self) -> tuple[int, int, int]:
        """Red, green and blue of the option `background`, 0 to 255."""
        return _rgb(self.background)

    def reading(self) -> Reading:
        """Return what was read, what was ignored and which evaluation follows.

        Raises:
            UserError: The dataset is missing.
        """
        return Reading.of(self.listings, self.protocol, held_out=self.validation_fraction)

    def all_samples(self) -> Iterable[Sample]:
        """Return the samples that the published size of "all" counts; by default those of the three splits."""
        return chain.from_iterable(listing.samples for listing in self.listings.values())

    def expected_sizes(self) -> Mapping[str, Split]:
        """Return the published sizes for the current options."""
        return self.card.splits

    def damaged_files(self) -> Iterator[str]:
        """Yield a sentence for each damaged file, if the dataset has hashes of its images. May decode all of them."""
        return iter(())

    @cached_property
    def identity(self) -> "Identity":
        """The images and labels at the first access, with the hash that tells them from all others.

        The first access on a machine reads every image; later ones take one `stat` per image. Raises like `train`.
        """
        from benchmark.data.identity import Identity  # not at the top: it imports this class

        return Identity.of(self)

    def fingerprint(self) -> str:
        """Return the hash of the images and labels by which records, runs and teachers are told apart.

        Raises:
            UserError: The dataset is missing or has a defect.
        """
        return self.identity.content

    def contents(self, paths: Iterable[Path]) -> list[str]:
        """Return the content hash of every file as it is now, computed again only for files that changed."""
        return DigestCache(self.root, self.folder, self.name, self.image_digest)(paths)

    def image_digest(self, path: Path) -> str:
        """Return the content hash of an image: the SHA-256 of its bytes.

        Raises:
            OSError: The file cannot be read.
        """
        return hash_file(path)

    def options(self) -> dict[str, Any]:
        """Return the constructor arguments other than `root`."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters if name != "root"}

    def reopened(self) -> Self:
        """Return a new dataset with the same root and options, which lists its images again."""
        return type(self)(self.root, **self.options())

    def versions(self) -> dict[str, str]:
        """Return the versions of the software that generated the images, if the suite did."""
        return {}

    def non_default_options(self) -> dict[str, Any]:
        """Return the options with non-default values, except `seed` and `location_options`.

        Leaderboards rank their runs separately.
        """
        ignored = ("seed", *self.location_options)
        return {name: value for name, value in self.changed_options().items() if name not in ignored}

    def changed_options(self) -> dict[str, Any]:
        """Return all options with non-default values."""
        parameters = inspect.signature(type(self)).parameters
        return {name: value for name, value in self.options().items() if value != parameters[name].default}

    def identity_name(self, identity: int) -> str:
        """Return the name under which an identity is shown to people."""
        return str(identity)

    def camera_name(self, camera: int) -> str:
        """Return the name under which a camera is shown to people."""
        return f"c{camera}"

    @cached_property
    def _usable_samples(self) -> dict[str, tuple[Sample, ...]]:
        from benchmark.data.check import require_no_defects  # not at the top: checks import this class

        require_no_defects(self)
        samples = {split: listing.samples for split, listing in self.listings.items()}
        train, validation = _split_identities(samples["train"], self.validation_fraction)
        return samples | {"train": train, VALIDATION: validation}


def _split_identities(samples: tuple[Sample, ...], fraction: float) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Divide images into two parts without a common identity; the second has a fraction of the identities.

    Raises:
        UserError: Fewer than two identities would remain in a part.
    """
    if not fraction:
        return samples, ()
    from sklearn.model_selection import GroupShuffleSplit  # slow to import

    groups = [sample.identity for sample in samples]
    identities = len(set(groups))
    if not 2 <= math.ceil(fraction * identities) <= identities - 2:
        raise UserError(
            f"dataset.validation_fraction: {fraction} of {identities:,} training identities leaves fewer than two for "
            "training or validation: choose another fraction"
        )
    splitter = GroupShuffleSplit(n_splits=1, test_size=fraction, random_state=0)
    first, second = next(splitter.split(groups, groups=groups))
    return tuple(samples[index] for index in first), tuple(samples[index] for index in second)


def _with_common_options(constructor: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `RetrievalDataset` to the constructor of a subclass, unless it declares them."""
    signature = inspect.signature(constructor)
    base = inspect.signature(RetrievalDataset.__init__).parameters
    names = [name for name in base if name not in ("self", *signature.parameters)]

    @wraps(constructor)
    def construct(self: RetrievalDataset, *arguments: Any, **options: Any) -> None:
        common = {name: options.pop(name, base[name].default) for name in names}
        constructor(self, *arguments, **options)
        for name, value in common.items():
            setattr(self, name, _check_color(value) if name == "background" else value)

    added = [base[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in names]
    # mypy does not know this attribute of functions, which `inspect.signature` reads.
    construct.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore
    annotations = {name: RetrievalDataset.__init__.__annotations__[name] for name in names}
    construct.__annotations__ = constructor.__annotations__ | annotations
    return construct
