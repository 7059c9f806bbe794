"""Broken images: the run stops with their path, or leaves them out and counts them."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import evaluation
from benchmark.data.card import Card
from benchmark.data.images import broken_images
from benchmark.data.loaders import EvaluationImages, Loading, eval_loader, train_loader
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Sample
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.hooks import RetrievalMetric
from benchmark.errors import UserError

SIZE = (8, 8)


class Solid(RetrievalDataset):
    """Four identities of four images; every pixel of an image is 16 * identity + its number."""

    name = "solid"
    card = Card("Solid", "", "", "Run the test.", "solid/<identity>_<number>.png")

    def scan(self, split):
        folder = self.folder / "gallery" if split == "gallery" else self.folder
        for path in folder.glob("*.png"):
            identity, number = map(int, path.stem.split("_"))
            if (identity < 4) == (split == "train"):
                yield Sample(path, identity, number % 2 + 2 * (split == "query"))


@pytest.fixture
def solid(tmp_path) -> Solid:
    (tmp_path / "solid" / "gallery").mkdir(parents=True)
    for identity, number in np.ndindex(6, 4):
        value = 16 * identity + number
        for folder in ("", "gallery"):
            image = Image.new("RGB", SIZE, (value, value, value))
            image.save(tmp_path / "solid" / folder / f"{identity}_{number}.png")
    return Solid(tmp_path)


def spoil(*samples) -> None:
    for sample in samples:
        sample.path.write_bytes(b"")


def training(solid, workers=0, **options):
    loading = Loading(SIZE, workers, skip_broken=True, **options)
    return train_loader(solid, torch.nn.Identity(), identities=4, images=2, seed=0, loading=loading)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kept", [False, True])
def test_another_image_of_the_identity_takes_the_place(solid, workers, kept, monkeypatch):
    if not kept:
        monkeypatch.setattr("benchmark.data.images.Images.__init__.__defaults__", (0, None, False))
    broken = [sample for sample in solid.train if sample.path.stem in ("1_1", "1_2", "3_3")]
    spoil(*broken)
    loader = training(solid, workers)
    assert loader.source.images.kept == kept
    batches = [batch for epoch in range(3) for batch in _epoch(loader, epoch)]
    for batch in batches:
        assert sorted(batch.labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
        for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
            sample = solid.train[int(index)]
            assert sample not in broken
            assert solid.labels[sample.identity] == label
            assert (image == 16 * sample.identity + int(sample.path.stem[-1])).all()
    assert loader.source.images.broken() == [sample.path for sample in broken]


def _epoch(loader, number):
    loader.batch_sampler.set_epoch(number)
    return loader


def test_where_an_identity_has_no_image_left_the_next_one_takes_the_place(solid):
    spoil(*(sample for sample in solid.train if sample.identity == 3))
    for batch in training(solid):
        assert set(batch.labels.tolist()) == {0, 1, 2}


def test_where_nothing_can_be_read_training_stops(solid):
    spoil(*solid.train)
    with pytest.raises(UserError, match="none of the training images can be read"):
        list(training(solid))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_lacks_them(solid, workers):
    spoil(solid.query[0], *solid.query[4:6])
    loading = Loading(SIZE, workers, skip_broken=True)
    source = EvaluationImages(solid.query, loading.images(solid.query, "test"))
    batches = list(eval_loader(source, range(8), 2, loading))
    assert [len(batch.images) for batch in batches] == [1, 2, 2], "no batch is empty"
    assert torch.cat([batch.indices for batch in batches]).tolist() == [1, 2, 3, 6, 7]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [4, 4, 4, 5, 5]
    assert source.images.broken() == [solid.query[0].path, *(sample.path for sample in solid.query[4:6])]


@pytest.mark.parametrize("workers", [0, 2])
def test_by_default_the_first_stops_the_loader_without_a_traceback(solid, workers, monkeypatch):
    monkeypatch.setattr("benchmark.data.images.Images.__init__.__defaults__", (0, None, False))
    spoil(solid.train[5])
    loader = train_loader(solid, torch.nn.Identity(), 4, 2, 0, Loading(SIZE, workers))
    with pytest.raises(UserError) as raised:
        [batch for epoch in range(9) for batch in _epoch(loader, epoch)]
    assert str(raised.value).startswith(f"image {solid.train[5].path} cannot be read")
    assert str(raised.value).endswith("Restore it from the archive, or leave it out: --skip-broken")
    assert "Traceback" not in str(raised.value)


def test_all_are_found_at_once(solid):
    spoil(solid.train[5], solid.query[1])
    paths = [sample.path for sample in (*solid.train, *solid.query)]
    assert list(broken_images(paths)) == [solid.train[5].path, solid.query[1].path]


class TestARun:
    """`benchmark run` on glyphs of which two are broken: one for training, one to be found."""

    @pytest.fixture
    def damaged(self, command, data_root, tmp_path):
        root = tmp_path / "data"
        shutil.copytree(data_root, root)
        folder = Glyphs(root, train_identities=40, test_identities=20).folder  # other tests leave others beside it
        broken = [next((folder / split).glob("*.png")) for split in ("train", "gallery")]
        for path in broken:
            path.write_bytes(b"")
        run = command(tmp_path, "--method", "none", settings=["runtime.workers=2"])
        run[run.index("--data-root") + 1] = str(root)
        return run, broken

    def test_stops_with_the_path(self, damaged):
        run, broken = damaged
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("benchmark: image ")
        assert any(str(path) in done.stderr.splitlines()[-1] for path in broken)
        assert "Traceback" not in done.stderr

    def test_or_leaves_them_out_and_counts_them(self, damaged, tmp_path):
        run, broken = damaged
        done = subprocess.run([*run, "--skip-broken"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "skipped 1 broken image, such as" in done.stderr
        folder = next((tmp_path / "runs" / "glyphs" / "none").iterdir())
        assert (folder / "skipped.txt").read_text().splitlines() == sorted(map(str, broken))
        record = json.loads((folder / "record.json").read_text())
        assert record["data"]["broken"] == 2
        page = next(path for path in (tmp_path / "boards").glob("glyphs*.md"))
        assert "**Images that could not be read and were left out: 2.**" in page.read_text()


class TestNothingLeftToJudge:
    """A clear error where broken images leave nothing of a split."""

    @pytest.fixture
    def test_set(self, solid):
        return lambda: evaluation.TestSet(solid, Loading(SIZE, skip_broken=True), 2)

    @staticmethod
    def network(images):
        return images.float().flatten(1)

    def test_all_queries(self, solid, test_set):
        spoil(*solid.query)
        with pytest.raises(UserError, match="none of the query images can be read"):
            test_set().embed(self.network, "query")
        with pytest.raises(UserError, match="none of the query images can be read"):
            test_set().example(2)

    def test_all_answers(self, solid, test_set):
        spoil(*(sample for sample in solid.gallery if sample.identity == 4))
        spoil(*(sample for sample in solid.query if sample.identity == 5))
        test = test_set()
        with pytest.raises(UserError, match="queries have no positive"):
            test.score(test.embed(self.network, "query"), test.embed(self.network, "gallery"))

    def test_all_images_of_a_validation(self, solid, test_set):
        spoil(*solid.query, *solid.gallery)
        with pytest.raises(UserError, match="none of the test images can be read"):
            RetrievalMetric(test_set()).evaluate(size=16)

    def test_a_diverged_network_is_an_error_too(self, test_set):
        with pytest.raises(UserError, match="no finite norm"):
            test_set().embed(lambda images: images.float().flatten(1) * torch.nan, "query")
