"""Whether images and weights are those that an earlier result or training used."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints, TypeAdapter

from benchmark.data.card import Split
from benchmark.data.digests import hash_file
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import SPLITS, VALIDATION
from benchmark.engine.files import INPUTS_FILE, LAST_CHECKPOINT
from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.published import teacher_path
from benchmark.model.plugin import is_plugin
from benchmark.recipe import Recipe
from benchmark.results import parts
from benchmark.results.record import Record
from benchmark.utils.atomic import write_text
from benchmark.utils.escape import terminal
from benchmark.utils.paths import read_regular, user_path

CHECKPOINT = ".checkpoint"
"""End of the recipe's keys of teachers from files."""
PLUGIN_FILE = ".network.args."
"""Middle of the recipe's keys of the arguments of a teacher of a plugin, which may be files."""
UNKNOWN = "it is of a version that did not record which images it used"
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def describe_data(test: TestSet, broken: int = 0) -> parts.Data:
    """Describe a dataset as a record does: fingerprint, image counts, protocol and skipped files.

    Args:
        test: The test images. Their dataset's identity is taken if it is not known yet.
        broken: Number of images that were left out because they cannot be decoded.
    """
    dataset = test.dataset
    return parts.Data(
        fingerprint=dataset.fingerprint(),
        splits={split: parts.Split(**asdict(count)) for split, count in split_sizes(dataset).items()},
        protocol=asdict(test.protocol),
        versions=dataset.versions(),
        skipped={
            terminal(f"{split}: {reason}"): files
            for split, listing in dataset.listings.items()
            for reason, files in listing.skipped.items()
        },
        broken=broken,
        reading=parts.Reading(**asdict(dataset.reading())),
    )


def split_sizes(dataset: RetrievalDataset) -> dict[str, Split]:
    """Return the size of each split, and of the validation images if there are any."""
    sizes = {split: Split.of(getattr(dataset, split)) for split in SPLITS}
    return sizes | {VALIDATION: Split.of(dataset.held_out)} if dataset.held_out else sizes


def data_changes(before: parts.Data, now: parts.Data, dataset: RetrievalDataset) -> Iterator[str]:
    """Yield each difference between the data of a record and the data now, as a phrase.

    Args:
        before: The data of the record.
        now: The present data.
        dataset: The present images, for the names of those that differ.
    """
    same = before.fingerprint is not None and now.fingerprint == before.fingerprint
    if not same and (names := dataset.identity.differences(before.fingerprint or "", dataset.root)):
        yield names
        return
    empty = parts.Split(images=0, identities=0, cameras=0)
    for split, counts in now.splits.items():
        earlier = before.splits.get(split, empty)
        for name, count in counts:
            if count != getattr(earlier, name):
                yield f"{split}: {getattr(earlier, name):,} {name} then, {count:,} now"
    if not same:
        yield "images with other content or labels" if before.fingerprint else UNKNOWN


def require_same_data(records: Mapping[Path, Record], now: parts.Data, dataset: RetrievalDataset) -> None:
    """Raise a UserError if records are of other data.

    Args:
        records: Records of earlier runs, by the folder of the run, or by the record's file on the leaderboards.
        now: The present data.
        dataset: The present images.
    """
    changes = {place: list(data_changes(record.data, now, dataset)) for place, record in records.items()}
    others = [place for place in changes if changes[place]]
    if not others:
        return
    kind, option = ("folder", "--work-dir") if others[0].is_dir() else ("file", "--leaderboards")
    several = len(others) > 1
    remedies = [
        *(["give the present data a name with --set dataset.label=NAME"] if dataset.location_options else []),
        f"choose another {option}",
        f"delete the {kind}{'s' if several else ''} to replace {'their results' if several else 'its result'}",
    ]
    raise UserError(
        f"{' and '.join(map(str, others))} {'are' if several else 'is'} from an earlier run on other data "
        f"({'; '.join(changes[others[0]])}): {', '.join(remedies[:-1])}, or {remedies[-1]}"
    )


def weight_files(recipe: Recipe) -> dict[str, str]:
    """Return the content hash of every file that a recipe names, that exists, and that the result depends on.

    These are files of weights, except for those from which a teacher is trained, and files that are arguments of a
    teacher of a plugin. The keys are those of the recipe.

    Raises:
        UserError: A file cannot be read.
    """
    from benchmark.experiment.networks import NAMED_WEIGHTS  # imports timm

    named = {"student.weights": recipe.student.weights}
    for section, teacher in zip(recipe.teacher_keys, recipe.teachers, strict=True):
        if teacher.checkpoint is not None:
            named[f"{section}{CHECKPOINT}"] = teacher.checkpoint
        if teacher.frozen:
            network = teacher.network
            named[f"{section}.network.weights"] = network.weights
            if is_plugin(network.backbone):  # an argument may be anything
                texts = {key: value for key, value in network.args.items() if isinstance(value, str)}
                named |= {f"{section}{PLUGIN_FILE}{key}": text for key, text in texts.items() if _is_file(text)}
    files = {}
    for key, name in named.items():
        if name in NAMED_WEIGHTS:
            continue
        path = teacher_path(name) if key.endswith(CHECKPOINT) else user_path(name)
        path = path / LAST_CHECKPOINT if path.is_dir() else path
        if path.is_file():
            try:
                files[key] = hash_file(path)
            except OSError as error:
                raise UserError(f"{key}: {path} cannot be read: {error.strerror}") from error
    return files


def _is_file(text: str) -> bool:
    """Whether a text, which may be anything, is the path of a file."""
    try:
        return user_path(text).is_file()
    except (UserError, OSError):  # such as a name that is too long
        return False


@dataclass(frozen=True, slots=True)
class Inputs:
    """The images and files from which a network is trained."""

    fingerprint: str
    """Fingerprint of the dataset, with the test images of the first evaluation."""
    training: _Digest
    """Hash of the training images alone, on which the trained network depends."""
    files: Mapping[str, _Digest]
    """Content hash of every file of weights that the recipe names, by key of the recipe."""

    @classmethod
    def of(cls, dataset: RetrievalDataset, recipe: Recipe) -> "Inputs":
        """Return the present inputs.

        Raises:
            UserError: A file cannot be read.
        """
        return cls(dataset.fingerprint(), dataset.identity.training, weight_files(recipe))

    @classmethod
    def read(cls, folder: Path) -> "Inputs | None":
        """Return the inputs of the training in a run folder; None if they are not known."""
        try:
            return TypeAdapter(cls).validate_json(read_regular(folder / INPUTS_FILE, 2**20))
        except (OSError, ValueError):  # pydantic's errors are ValueErrors
            return None

    def write(self, folder: Path) -> None:
        """Write the inputs of the training in a run folder."""
        content: dict[str, Any] = asdict(self)
        write_text(folder / INPUTS_FILE, json.dumps(content, indent=1) + "\n")

    def require_same(self, folder: Path, dataset: RetrievalDataset) -> None:
        """Raise a UserError unless the training in a run folder has the same images and files.

        Args:
            folder: A run folder with a checkpoint.
            dataset: The present images, for the names of those that differ.
        """
        before = Inputs.read(folder)
        if before is None:
            reason = UNKNOWN
        elif before.training != self.training:
            changes = dataset.identity.differences(before.fingerprint, dataset.root)
            reason = f"its training images differ: {changes}" if changes else "its training images differ"
        elif before.files != self.files:
            reason = f"the file at {' and '.join(_differing(before.files, self.files))} has changed"
        else:
            return
        raise UserError(
            f"{folder} has a training that does not belong to the present data ({reason}): restore them, or delete the "
            "folder to train again"
        )


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
