"""Files of tuned arguments, which `benchmark tune` writes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import UserError
from benchmark.utils import strict_yaml
from benchmark.utils.atomic import write_text

PUBLISHED = "published"
HEADER = "# Arguments of methods that `benchmark tune` has chosen on the validation images.\n"

Score = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Tuned(_Part):
    """The tuned arguments of one method, and their provenance."""

    arguments: dict[str, int | float]
    validation_mAP: Score
    """The highest mAP on the validation images among the trials."""
    default_mAP: Score | None
    """The mAP of the first trial, which has the default arguments; None if its training failed."""
    failed: int = Field(ge=0)
    """Number of trials whose training failed."""
    study: str
    """SHA-256 of the arguments and scores of all trials."""


class Tuning(_Part):
    """What all trials have in common."""

    dataset: str
    options: dict[str, Any]
    """Options of the dataset, without `validation_fraction`."""
    data: str
    """Fingerprint of the images."""
    teacher: str
    """The checkpoint of the teacher, or the hash of the recipe that trains it."""
    budget: float | None
    epochs: int
    trials: int
    """Number of trials of every method."""
    seed: int
    config: str | None
    """SHA-256 of the recipe file that was applied to every run."""
    changes: list[str]
    """Other changes of the recipe, as `key=value`."""
    software: str
    """Version of Optuna, on which the proposals depend."""


class TunedSettings(_Part):
    """The content of a file of tuned arguments."""

    tuning: Tuning
    methods: dict[str, Tuned]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            UserError: It cannot be read, or its content is not valid.
        """
        content = strict_yaml.read(path, "settings", "tuning: {dataset: glyphs2}")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UserError(f"settings {path}: {place}: {first['msg']}. Write it again by `benchmark tune`") from error

    def text(self) -> str:
        """Return the content of the file."""
        return HEADER + strict_yaml.dump(self.model_dump(mode="json"))

    def write(self, path: Path) -> None:
        """Write the file."""
        write_text(path, self.text())

    @property
    def hash(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def arguments(self, method: str, path: Path) -> Mapping[str, int | float]:
        """Return the tuned arguments of a method.

        Args:
            method: Name of a method that has a search space.
            path: Where the file was read, for error messages.

        Raises:
            UserError: The file lacks the method.
        """
        if method not in self.methods:
            command = f"benchmark tune --methods {method} --dataset {self.tuning.dataset} --output {path}"
            raise UserError(f"settings {path}: the file has no arguments of {method}. Tune it by `{command}`")
        return self.methods[method].arguments

    def require_dataset(self, name: str, options: Mapping[str, Any], path: Path) -> None:
        """Check that the file is of a dataset with these options.

        Raises:
            UserError: It is not.
        """
        if self.tuning.dataset != name:
            raise UserError(f"settings {path}: the file is of {self.tuning.dataset}, but the dataset is {name}")
        options = comparable(options)
        for option in sorted(options.keys() | self.tuning.options.keys()):
            tuned, present = self.tuning.options.get(option), options.get(option)
            if tuned != present:
                raise UserError(
                    f"settings {path}: the file was made with dataset.{option} {tuned}, but it is {present} now. Tune "
                    "again with these images"
                )


def comparable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a dataset that tuned arguments depend on."""
    return {name: value for name, value in options.items() if name != "validation_fraction"}
