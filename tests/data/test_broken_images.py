"""Broken images: they stop a run with their path, or are left out and counted."""

import json
import shutil
from functools import partialmethod
from itertools import product

import numpy as np
import pytest
import torch

from benchmark import evaluation
from benchmark.data.images import Images, broken_images
from benchmark.data.loaders import EvaluationImages, Loading, eval_loader, train_loader
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.hooks import RetrievalMetric
from benchmark.errors import UserError

SIZE = (8, 8)


def brightness(identity: int, number: int) -> int:
    return 16 * identity + number


@pytest.fixture
def uniform(generate):
    """Four training and two test identities with four images each; `brightness` is the value of all pixels."""
    return generate(
        {
            "train": product(range(4), range(4)),
            "query": product((4, 5), (0, 1)),
            "gallery": product((4, 5), (2, 3)),
        },
        lambda identity, number: np.full((*SIZE, 3), brightness(identity, number), np.uint8),
    )


@pytest.fixture
def decode_on_access(monkeypatch):
    """A function that keeps images from being decoded in advance."""
    return lambda: monkeypatch.setattr(Images, "__init__", partialmethod(Images.__init__, limit=0))


def damage(*samples) -> None:
    for sample in samples:
        sample.path.write_bytes(b"")


def training_loader(dataset, workers=0, skip_broken=True):
    loading = Loading(SIZE, workers, skip_broken=skip_broken)
    return train_loader(dataset, torch.nn.Identity(), identities=4, images=2, seed=0, loading=loading)


def load_epochs(loader, epochs):
    try:
        for epoch in range(epochs):
            loader.batch_sampler.set_epoch(epoch)
            yield from loader
    finally:
        loader._iterator = None  # stops the workers; garbage collection would wait five seconds for each


class TestTraining:
    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("predecoded", [False, True])
    def test_replaced_by_an_image_of_the_same_identity(self, uniform, workers, predecoded, decode_on_access):
        if not predecoded:
            decode_on_access()
        broken = [sample for sample in uniform.train if sample.path.stem in ("1_1", "1_2", "3_3")]
        damage(*broken)
        loader = training_loader(uniform, workers)
        assert loader.source.images.predecoded == predecoded
        for batch in load_epochs(loader, 3):
            assert sorted(batch.labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
            for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
                sample = uniform.train[int(index)]
                assert sample not in broken
                assert uniform.labels[sample.identity] == label
                assert (image == brightness(sample.identity, sample.camera)).all()
        assert loader.source.images.broken() == [sample.path for sample in broken]

    def test_replaced_by_another_identity_if_all_images_are_broken(self, uniform):
        damage(*(sample for sample in uniform.train if sample.identity == 3))
        for batch in training_loader(uniform):
            assert set(batch.labels.tolist()) == {0, 1, 2}

    def test_stops_if_every_image_is_broken(self, uniform):
        damage(*uniform.train)
        with pytest.raises(UserError, match="none of the training images can be read"):
            list(training_loader(uniform))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_stops_without_a_traceback_by_default(self, uniform, workers, decode_on_access):
        decode_on_access()
        path = uniform.train[5].path
        damage(uniform.train[5])
        with pytest.raises(UserError) as raised:
            list(load_epochs(training_loader(uniform, workers, skip_broken=False), 9))
        assert str(raised.value).startswith(f"image {path} cannot be read")
        assert str(raised.value).endswith("Restore it from the archive, or leave it out: --skip-broken")
        assert "Traceback" not in str(raised.value)


class TestEvaluation:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_left_out(self, uniform, workers):
        samples = uniform.query + uniform.gallery
        damage(samples[0], *samples[4:6])
        loading = Loading(SIZE, workers, skip_broken=True)
        source = EvaluationImages(samples, loading.images(samples, "test"))
        batches = list(eval_loader(source, range(8), 2, loading))
        assert [len(batch.images) for batch in batches] == [1, 2, 2]  # the empty third batch is skipped
        assert torch.cat([batch.indices for batch in batches]).tolist() == [1, 2, 3, 6, 7]
        assert torch.cat([batch.labels for batch in batches]).tolist() == [4, 5, 5, 5, 5]
        assert source.images.broken() == [samples[0].path, *(sample.path for sample in samples[4:6])]

    @pytest.fixture
    def test_set(self, uniform):
        return lambda: evaluation.TestSet(uniform, Loading(SIZE, skip_broken=True), 2)

    @staticmethod
    def network(images):
        return images.float().flatten(1)

    def test_every_query_is_broken(self, uniform, test_set):
        damage(*uniform.query)
        with pytest.raises(UserError, match="none of the query images can be read"):
            test_set().embed(self.network, "query")
        with pytest.raises(UserError, match="none of the query images can be read"):
            test_set().first_queries(2)

    def test_every_correct_match_is_broken(self, uniform, test_set):
        damage(*(sample for sample in uniform.gallery if sample.identity == 4))
        damage(*(sample for sample in uniform.query if sample.identity == 5))
        test = test_set()
        with pytest.raises(UserError, match="queries has a correct match"):
            test.score(test.embed(self.network, "query"), test.embed(self.network, "gallery"))

    def test_every_validation_image_is_broken(self, uniform, test_set):
        damage(*uniform.query, *uniform.gallery)
        with pytest.raises(UserError, match="none of the test images can be read"):
            RetrievalMetric(test_set()).evaluate(size=16)

    def test_embeddings_that_are_not_finite(self, test_set):
        with pytest.raises(UserError, match="no finite norm"):
            test_set().embed(lambda images: images.float().flatten(1) * torch.nan, "query")


def test_all_broken_images_are_listed(uniform):
    damage(uniform.train[5], uniform.query[1])
    paths = [sample.path for sample in (*uniform.train, *uniform.query)]
    assert list(broken_images(paths)) == [uniform.train[5].path, uniform.query[1].path]


class TestRun:
    """`benchmark run` on own images with a broken training image and a broken gallery image."""

    @pytest.fixture
    def run_arguments(self, command, data_root, tiny_config, tmp_path):
        glyphs = Glyphs(data_root, train_identities=40, test_identities=20)
        for path in glyphs.folder.glob("*/*.png"):
            identity = tmp_path / "data" / "folder" / path.parent.name / path.name.split("_")[0]
            identity.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, identity)
        broken = [next((tmp_path / "data" / "folder" / split).glob("*/*.png")) for split in ("train", "gallery")]
        for path in broken:
            path.write_bytes(b"")
        options = "{name: glyphs, train_identities: 40, test_identities: 20}"
        config = tiny_config.read_text().replace(options, "folder")
        (tmp_path / "config.yaml").write_text(config)
        arguments = command(tmp_path, "--method", "none", settings=["runtime.workers=2"])[3:]
        arguments[arguments.index("--data-root") + 1] = str(tmp_path / "data")
        arguments[arguments.index("--config") + 1] = str(tmp_path / "config.yaml")
        return arguments, broken

    def test_stops_with_the_path(self, run_arguments, command_line):
        arguments, broken = run_arguments
        code, _, err = command_line(*arguments)
        assert code == 2
        assert err.splitlines()[-1].startswith("benchmark: image ")
        assert any(str(path) in err.splitlines()[-1] for path in broken)
        assert "Traceback" not in err

    @pytest.mark.slow
    def test_leaves_them_out_and_counts_them(self, run_arguments, command_line, tmp_path):
        arguments, broken = run_arguments
        code, _, err = command_line(*arguments, "--skip-broken")
        assert code == 0, err
        assert "skipped 1 broken image, such as" in err
        folder = next((tmp_path / "runs" / "folder" / "none").iterdir())
        assert (folder / "skipped.txt").read_text().splitlines() == sorted(map(str, broken))
        record = json.loads((folder / "record.json").read_text())
        assert record["data"]["broken"] == 2
        page = next(path for path in (tmp_path / "boards").glob("folder*.md"))
        assert "**Broken images left out: 2.**" in page.read_text()
