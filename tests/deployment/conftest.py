"""Students and folders of images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.deployment.student import Student
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import save_student, weights_hash
from benchmark.results.record import Record

SMALL = {"channels": [8, 8, 16, 16], "stem_width": 8}
SIZE = (24, 32)
"""(height, width) of the images of `tiny_student`, which are not square."""


def network(**options) -> Embedder:
    """Return a deployed network whose embeddings depend on its input: batch norms have seen images."""
    torch.manual_seed(0)
    made = Embedder("resnet14t", SMALL, **{"dim": 12, **options})
    with torch.no_grad():
        made.train()(torch.randint(0, 256, (16, 3, *SIZE), dtype=torch.uint8))
    return fold_batchnorm(made, torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8))


@pytest.fixture(scope="session")
def student_file(tmp_path_factory) -> Path:
    """The `student.pt` of a small network."""
    path = tmp_path_factory.mktemp("student") / "student.pt"
    save_student(network(), path, SIZE)
    return path


@pytest.fixture
def tiny_student(student_file) -> Student:
    from benchmark import load_student

    return load_student(student_file)


@pytest.fixture
def recorded(tiny_student, record) -> Student:
    """The student with a record."""
    made: Record = record("kd")
    own = made.network.model_copy(update={"weights": weights_hash(tiny_student.network)})
    return Student(tiny_student.network, made.model_copy(update={"network": own}))


@pytest.fixture
def pictures(tmp_path) -> Callable[..., Path]:
    """`pictures(5)` is a folder of 5 images of several sizes and formats, some in a folder below it."""

    def make(count: int, name: str = "pictures") -> Path:
        folder = tmp_path / name
        generator = np.random.default_rng(0)
        for number in range(count):
            height, width = generator.integers(20, 70, size=2)
            coarse = generator.integers(256, size=(4, 4, 3), dtype=np.uint8)  # photographs have large areas
            image = Image.fromarray(coarse).resize((width, height))
            path = folder / ("", "below")[number % 2] / f"{number:04}.{('png', 'jpg', 'webp')[number % 3]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        return folder

    return make
