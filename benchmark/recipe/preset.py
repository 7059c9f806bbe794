"""Presets: released settings of other projects, with their sources.

Each is a file in the folder `presets`. A file holds facts only: the values, where they were read, how this suite
differs from the original, which values no source states, and the result that a source reports.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import UserError, nearest
from benchmark.utils import strict_yaml

FOLDER = Path(__file__).parent / "presets"

Text = Annotated[str, Field(min_length=1)]


class Facts(BaseModel):
    """Base class of the contents of files of facts, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Facts):
    """Files of a public repository at a commit."""

    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Owner and name on GitHub."""
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    files: tuple[Text, ...] = Field(min_length=1)

    def __str__(self) -> str:
        return f"{self.repository} at {self.commit[:12]}: {', '.join(self.files)}"


class Preset(Facts):
    """The content of a file."""

    title: Text
    sources: tuple[Source, ...] = Field(min_length=1)
    differences: tuple[Text, ...]
    """What this suite cannot express, or does in another way."""
    defaults: tuple[Text, ...]
    """Values that no source states, and what is used instead, each as `key: sentence`."""
    published: Text | None
    """The result that a source reports; None if there is none."""
    recipe: dict[str, Any]
    """A layer of a recipe that names the method and the dataset."""

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.recipe["method"]["name"])

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return str(self.recipe["dataset"]["name"])

    def layer(self, method: str | None, dataset: str | None) -> dict[str, Any]:
        """Return the recipe for other methods and datasets.

        Options of the preset's own dataset are left out for another one, and arguments of its own method for another
        method. In a combination, they belong to the method.

        Args:
            method: Name of the method that the user has chosen; None for the preset's.
            dataset: Name of the dataset that the user has chosen; None for the preset's.
        """
        layer = dict(self.recipe)
        if dataset not in (None, self.dataset):
            layer["dataset"] = {}
        if method not in (None, self.method):
            arguments: Mapping[str, Any] = {key: value for key, value in layer["method"].items() if key != "name"}
            layer["method"] = {self.method: arguments} if self.method in str(method).split("+") else {}
        return layer


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        UserError: The name is unknown; the message gives the nearest.
    """
    names = preset_names()
    if name not in names:
        raise UserError(f"no preset {name!r}{nearest(name, names)} Known: {', '.join(names)}.")
    path = FOLDER / f"{name}.yaml"
    try:
        return Preset.model_validate(strict_yaml.read(path, "preset", "title: TITLE"))
    except ValidationError as error:
        raise UserError(f"preset {path} is damaged: {error}; install the package again") from error
