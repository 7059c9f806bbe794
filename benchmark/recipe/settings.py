"""Files of tuned arguments, which `benchmark tune` writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import UserError
from benchmark.utils import strict_yaml
from benchmark.utils.atomic import write_text

PUBLISHED, TUNED = "published", "tuned"
HEADER = "# Arguments of methods that `benchmark tune` has chosen on the validation images.\n"

Fraction = Annotated[float, Field(ge=0, le=1)]
Number = int | float | str | bool | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Tuned(_Part):
    """The tuned arguments of one method, and where they come from."""

    arguments: dict[str, Number]
    validation_mAP: Fraction
    """The highest mAP on the validation images among the trials."""
    default_mAP: Fraction | None
    """That of the default arguments; None if their training failed."""
    failed: int = Field(ge=0)
    """Number of trials whose training failed."""
    study: str
    """SHA-256 of the arguments and scores of all trials."""


class Tuning(_Part):
    """What all trials have in common."""

    dataset: str
    data: str
    """Fingerprint of the images."""
    budget: float | None
    epochs: int
    trials: int
    """Number of trials of every method."""
    seed: int
    changes: list[str]
    """Other changes of the recipe, as `key=value`."""


class TunedSettings(_Part):
    """The content of a file of tuned arguments."""

    tuning: Tuning
    methods: dict[str, Tuned]

    @classmethod
    def read(cls, path: Path) -> "TunedSettings":
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
            raise UserError(
                f"settings {path}: {place}: {first['msg']}; run `benchmark tune` to write the file"
            ) from error

    def write(self, path: Path) -> None:
        """Write the file."""
        write_text(path, HEADER + strict_yaml.dump(self.model_dump(mode="json")))


def tuned_arguments(method: str, dataset: str, source: str, searched: bool) -> Mapping[str, Number]:
    """Return the tuned arguments of a method on a dataset.

    Args:
        method: Name of the method.
        dataset: Name of the dataset.
        source: "tuned" for the file of the package, or a path.
        searched: Whether the method has a search space. Others keep their defaults.

    Raises:
        UserError: There is no such file, it is not valid or of another dataset, or it lacks the method.
    """
    if source == TUNED and not searched:
        return {}
    path = _packaged(dataset) if source == TUNED else Path(source)
    command = f"benchmark tune --methods {method} --dataset {dataset}"
    if not path.is_file():
        missing = f"the package has no tuned arguments for {dataset}" if source == TUNED else f"{path} does not exist"
        raise UserError(f"settings: {missing}. Choose them by `{command}`, and give the file: --settings FILE")
    content = TunedSettings.read(path)
    if content.tuning.dataset != dataset:
        raise UserError(f"settings {path}: of {content.tuning.dataset}, not of {dataset}")
    if not searched:
        return {}
    if method not in content.methods:
        raise UserError(f"settings {path}: {method} is not tuned; run `{command} --output {path}`")
    return content.methods[method].arguments


def _packaged(dataset: str) -> Path:
    from benchmark import datasets

    return Path(datasets.__path__[0]) / "settings" / f"{dataset}.yaml"
