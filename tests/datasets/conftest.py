"""Datasets in miniature.

`tests/datasets/test_<name>.py` has a function `miniature(root, picture)` that makes a small set in the official layout
below a data root, junk files included. The conformance tests find it by the dataset's name.
"""

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.data.card import Split
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.registry import DATASETS

Picture = Callable[..., None]


def save_picture(path: Path, identity: int = 0, size: tuple[int, int] = (40, 24), **options: Any) -> None:
    """Write a real image of (height, width): a pattern of its identity, with a little noise of its name."""
    shape = (*size, 3)
    pattern = np.random.default_rng(identity).integers(40, 216, (4, 4, 3))
    pattern = np.kron(pattern, np.ones((-(-size[0] // 4), -(-size[1] // 4), 1)))[: size[0], : size[1]]
    noise = np.random.default_rng(list(path.name.encode())).integers(-30, 30, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pattern + noise).clip(0, 255).astype(np.uint8)).save(path, **options)


def tests_of(name: str) -> ModuleType:
    """The module with the tests of a dataset."""
    path = Path(__file__).parent / f"test_{name}.py"
    spec = importlib.util.spec_from_file_location(f"tests_of_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Miniature:
    """A dataset made by the tests."""

    root: Path
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def open(self, **options: Any) -> RetrievalDataset:
        dataset = DATASETS.find(self.name)(self.root, **self.options | options)
        dataset.prepare()
        return dataset

    @property
    def settings(self) -> list[str]:
        return [part for option, value in self.options.items() for part in ("--set", f"dataset.{option}={value}")]


@pytest.fixture(scope="session")
def picture() -> Picture:
    """`picture(path, identity, size)` writes an image file."""
    return save_picture


@pytest.fixture(scope="session")
def originals(tmp_path_factory, picture):
    """Every set in miniature, made once: a data root by the name of a set."""

    @cache
    def build(name: str) -> Miniature:
        module = tests_of(name)
        made = Miniature(tmp_path_factory.mktemp(name), name, getattr(module, "OPTIONS", {}))
        module.miniature(made.root, picture)
        made.open()
        return made

    return build


@pytest.fixture
def make(tmp_path, originals):
    """`make("market1501")` gives a set in miniature, which the test may change."""

    def build(name: str, root: Path = tmp_path / "data") -> Miniature:
        original = originals(name)
        shutil.copytree(original.root, root)
        return Miniature(root, name, original.options)

    return build


@pytest.fixture
def sizes():
    """`sizes(dataset)`: images, identities and cameras of each split."""
    return lambda dataset: {split: Split.of(getattr(dataset, split)) for split in ("train", "query", "gallery")}
