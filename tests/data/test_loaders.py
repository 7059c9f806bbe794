"""Training and evaluation batches."""

import shutil
from functools import partialmethod

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data.augment import train_transform
from benchmark.data.decode import decode, eval_transform
from benchmark.data.images import Images
from benchmark.data.loaders import EvaluationImages, Loading, eval_loader, train_loader
from benchmark.errors import UserError

SIZE = (24, 16)
AUGMENT = train_transform(SIZE, pad=3, flip=0.5, erase=0.5)


def load_epochs(dataset, workers, epochs, seed=3):
    loader = train_loader(dataset, AUGMENT, identities=3, images=2, seed=seed, loading=Loading(SIZE, workers))
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        yield from loader


def load_test_images(samples, loading, batch_size=8):
    source = EvaluationImages(samples, loading.images(samples, "test"))
    return eval_loader(source, range(len(samples)), batch_size, loading)


def are_equal(batches, others) -> bool:
    return all(
        torch.equal(a, b) for one, other in zip(batches, others, strict=True) for a, b in zip(one, other, strict=True)
    )


class TestTraining:
    def test_batches_have_the_labels_of_their_images(self, noise):
        batches = list(load_epochs(noise, 0, [0]))
        assert len(batches) == 42 // 6
        for batch in batches:
            assert batch.images.shape == (6, 3, *SIZE)
            assert batch.images.dtype == torch.uint8
            for index, label, camera in zip(batch.indices, batch.labels, batch.cameras, strict=True):
                sample = noise.train[int(index)]
                assert (noise.labels[sample.identity], sample.camera) == (int(label), int(camera))

    def test_independent_of_workers(self, noise):
        assert are_equal(load_epochs(noise, 0, [0, 1]), load_epochs(noise, 2, [0, 1]))

    def test_independent_of_earlier_epochs(self, noise):
        alone = list(load_epochs(noise, 0, [1]))
        after = list(load_epochs(noise, 0, [0, 1]))[-len(alone) :]
        assert are_equal(alone, after)

    def test_augmentation_differs_between_epochs_and_seeds(self, noise):
        views = {}
        for batch in (batch for seed in (3, 4) for batch in load_epochs(noise, 0, [0, 1], seed)):
            for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
                views.setdefault(index, set()).add(image.numpy().tobytes())
        assert len(views) == 42
        assert sum(map(len, views.values())) > 0.95 * 4 * 42

    def test_too_few_identities(self, noise):
        with pytest.raises(UserError, match="training set of 6"):
            train_loader(noise, AUGMENT, identities=7, images=2, seed=0, loading=Loading(SIZE))

    def test_no_images(self, noise):
        shutil.rmtree(noise.folder / "train")
        with pytest.raises(UserError, match="there are no train images"):
            train_loader(noise, AUGMENT, identities=2, images=2, seed=0, loading=Loading(SIZE))


@pytest.mark.parametrize("workers", [0, 2])
class TestWorkers:
    def test_random_state_of_the_process_is_unchanged(self, noise, workers):
        before = torch.get_rng_state()
        list(load_epochs(noise, workers, [0, 1]))
        list(load_test_images(noise.query, Loading(SIZE, workers)))
        assert torch.equal(torch.get_rng_state(), before)

    def test_evaluation_is_in_order_without_augmentation(self, noise, workers):
        batches = list(load_test_images(noise.query, Loading(SIZE, workers), batch_size=5))
        assert [len(batch.labels) for batch in batches] == [5] * 8 + [2]
        assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(42))
        assert torch.cat([batch.labels for batch in batches]).tolist() == [sample.identity for sample in noise.query]
        assert torch.cat([batch.cameras for batch in batches]).tolist() == [sample.camera for sample in noise.query]
        assert torch.equal(torch.cat([batch.images for batch in batches])[3], decode(noise.query[3].path))

    def test_broken_image_is_named(self, noise, workers, monkeypatch):
        path = noise.query[20].path
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(UserError, match=str(path)):
            load_test_images(noise.query, Loading(SIZE, workers))
        monkeypatch.setattr(Images, "__init__", partialmethod(Images.__init__, limit=0))
        with pytest.raises(UserError, match=str(path)):
            list(load_test_images(noise.query, Loading(SIZE, workers)))


class TestImages:
    def test_kept_in_memory_up_to_the_limit(self, noise):
        paths = [sample.path for sample in noise.query]
        in_memory, on_access = Images(paths, SIZE), Images(paths, SIZE, limit=1000)
        assert in_memory.predecoded
        assert not on_access.predecoded
        assert all(torch.equal(in_memory[index], on_access[index]) for index in range(len(paths)))

    def test_resized(self, noise):
        Image.new("L", (50, 40), 99).save(noise.query[5].path)
        images = Images([sample.path for sample in noise.query], (8, 12))
        assert images[0].shape == images[5].shape == (3, 8, 12)
        assert (images[5] == 99).all()

    def test_large_jpeg_is_decoded_at_reduced_size(self, tmp_path):
        size = (8, 64)
        pixels = np.random.default_rng(0).integers(256, size=(64, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.jpg")
        image = Images([tmp_path / "a.jpg"], size)[0]
        assert torch.equal(image, eval_transform(size)(decode(tmp_path / "a.jpg", min_size=size)))
