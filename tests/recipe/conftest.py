"""A dataset and methods with options of every type."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from benchmark.data.card import Card
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.recipe import compose
from benchmark.registry import DATASETS, METHODS


class Swatches(RetrievalDataset):
    """A dataset with its own recipe."""

    card = Card("Swatches", "Doe 2020.", "free", "Run the tests.", "swatches/*.jpg")
    recipe: ClassVar[dict[str, Any]] = {
        "image_size": (24, 16),
        "teacher": {"network": {"backbone": "resnet26", "dim": 96}, "train": {"optimizer": {"lr": 0.5}}},
        "student": {"backbone": "resnet18"},
        "train": {"schedule": {"epochs": 7}, "optimizer": {"lr": 0.2}, "sampler": {"images": 3}},
    }

    def __init__(self, root: Path, shades: tuple[int, ...] = (1, 2), gain: float = 1.0) -> None:
        super().__init__(root)

    def scan(self, split: str) -> list[Any]:
        return []


class Mirror(Method):
    """A method with arguments of every type."""

    recipe: ClassVar[dict[str, Any]] = {"train": {"schedule": {"epochs": 9}}, "student": {"like": "teacher"}}
    presets: ClassVar[dict[str, Any]] = {"published": {"shots": 3, "text": "theirs", "table": {"a": 2.0}}}

    def __init__(
        self,
        weight: Annotated[float, Field(gt=0)] = 1.0,
        shots: Annotated[int, Field(ge=1)] = 2,
        rate: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto",
        stages: tuple[str, ...] = (),
        table: dict[str, float] | None = None,
        text: str = "",
        flag: bool = False,
    ) -> None:
        super().__init__()


class Demanding(Method):
    """A method with an argument that has no default."""

    def __init__(self, weight: float) -> None:
        super().__init__()


class Unclear(Method):
    """A method with a type hint of an undefined name."""

    def __init__(self, weight: "Weight" = 1.0) -> None:  # noqa: F821
        super().__init__()


ADDED = (
    (METHODS, "mirror", Mirror),
    (METHODS, "demanding", Demanding),
    (METHODS, "unclear", Unclear),
    (DATASETS, "swatches", Swatches),
)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    for registry, name, added in ADDED:
        registry.register_module(name)(added)
    yield
    for registry, name, _ in ADDED:
        registry.classes.pop(name)


@pytest.fixture
def config(tmp_path) -> Callable[[str], Path]:
    """`config("seed: 1")` writes a file with that text."""

    def write(text: str) -> Path:
        path = tmp_path / "my.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def mistakes() -> Callable[..., list[str]]:
    """`mistakes("seed=one")` composes a recipe, which fails, and returns the lines of the message."""

    def lines(*settings: str, method: str = "mirror", config: Path | None = None) -> list[str]:
        with pytest.raises(UserError) as raised:
            compose(method, "swatches", config, settings)
        return str(raised.value).splitlines()

    return lines
