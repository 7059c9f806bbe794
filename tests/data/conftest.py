"""A dataset of generated images."""

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data.card import Card, Split
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Sample


class Generated(RetrievalDataset):
    """Images in `generated/<split>/<identity>_<camera>.png`."""

    name = "generated"
    card = Card(
        title="Generated",
        citation="",
        terms="",
        obtain="Run the test.",
        tree="generated/<split>/<identity>_<camera>.png",
        splits={"train": Split(4, 2, 2), "query": Split(2, 2), "gallery": Split(2, 2, 1)},
    )

    def scan(self, split):
        return [Sample(path, *map(int, path.stem.split("_"))) for path in (self.folder / split).glob("*.png")]


@pytest.fixture
def generated_class() -> type[RetrievalDataset]:
    return Generated


@pytest.fixture
def generate(tmp_path):
    """`generate({"train": [(identity, camera), ...], ...}, draw)` writes images of pixels `draw(identity, camera)`."""

    def write(
        images: Mapping[str, Iterable[tuple[int, int]]],
        draw: Callable[[int, int], np.ndarray] = lambda *_: np.full((40, 20, 3), (255, 0, 0), np.uint8),
    ) -> RetrievalDataset:
        for split, labels in images.items():
            folder = Path(tmp_path, "generated", split)
            folder.mkdir(parents=True)
            for identity, camera in labels:
                Image.fromarray(draw(identity, camera)).save(folder / f"{identity}_{camera}.png")
        return Generated(tmp_path)

    return write


@pytest.fixture
def noise(generate):
    """Six training and six test identities, each with seven images of noise of 24 x 16 pixels in every split."""
    rng = np.random.default_rng(0)
    train, test = (list(product(range(first, first + 60, 10), range(7))) for first in (10, 70))
    return generate(
        {"train": train, "query": test, "gallery": test},
        lambda *_: rng.integers(256, size=(24, 16, 3), dtype=np.uint8),
    )
