"""Batches as training and evaluation get them."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data.card import Card
from benchmark.data.decode import decode, train_transform
from benchmark.data.images import Images
from benchmark.data.loaders import EvaluationImages, Loading, eval_loader, train_loader
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Sample
from benchmark.errors import UserError

SIZE = (24, 16)
AUGMENT = train_transform(SIZE, pad=3, flip=0.5, erase=0.5)


class Noise(RetrievalDataset):
    """Six training identities, numbered 10, 20, ..., of seven images each."""

    name = "noise"
    card = Card("Noise", "", "", "Run the test.", "noise/<split>/<identity>_<camera>.png")

    def scan(self, split):
        paths = (self.folder / split).glob("*.png")
        return [Sample(path, int(path.stem.split("_")[0]), int(path.stem.split("_")[1])) for path in paths]


@pytest.fixture
def noise(tmp_path) -> Noise:
    rng = np.random.default_rng(0)
    for split, start in (("train", 1), ("query", 7), ("gallery", 7)):
        (tmp_path / "noise" / split).mkdir(parents=True)
        for identity, camera in np.ndindex(6, 7):
            pixels = rng.integers(256, size=(*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "noise" / split / f"{10 * (start + identity)}_{camera}.png")
    return Noise(tmp_path)


def epochs(noise, workers, wanted, seed=3):
    loader = train_loader(noise, AUGMENT, identities=3, images=2, seed=seed, loading=Loading(SIZE, workers))
    for epoch in wanted:
        loader.batch_sampler.set_epoch(epoch)
        yield from loader


def evaluated(samples, loading, batch_size=8):
    source = EvaluationImages(samples, loading.images(samples, "test"))
    return eval_loader(source, range(len(samples)), batch_size, loading)


def same(some, others) -> bool:
    return all(
        torch.equal(a, b) for one, other in zip(some, others, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_training_batches(noise):
    batches = list(epochs(noise, 0, [0]))
    assert len(batches) == 42 // 6
    for batch in batches:
        assert batch.images.shape == (6, 3, *SIZE)
        assert batch.images.dtype == torch.uint8
        for index, label, camera in zip(batch.indices, batch.labels, batch.cameras, strict=True):
            sample = noise.train[int(index)]
            assert (noise.labels[sample.identity], sample.camera) == (int(label), int(camera))


def test_batches_do_not_depend_on_workers(noise):
    assert same(epochs(noise, 0, [0, 1]), epochs(noise, 2, [0, 1]))


def test_an_epoch_does_not_depend_on_the_ones_before(noise):
    alone = list(epochs(noise, 0, [1]))
    after = list(epochs(noise, 0, [0, 1]))[-len(alone) :]
    torch.rand(1)
    assert same(alone, after)


def test_augmentation_differs_between_epochs_and_seeds(noise):
    views = [batch for seed in (3, 4) for batch in epochs(noise, 0, [0, 1], seed)]
    pictures = {}
    for batch in views:
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            pictures.setdefault(index, set()).add(image.numpy().tobytes())
    assert len(pictures) == 42
    assert sum(map(len, pictures.values())) > 0.95 * 4 * 42


@pytest.mark.parametrize("workers", [0, 2])
def test_the_random_state_of_the_process_is_untouched(noise, workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(epochs(noise, workers, [0, 1]))
    list(evaluated(noise.query, Loading(SIZE, workers)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_in_order_and_plain(noise, workers):
    batches = list(evaluated(noise.query, Loading(SIZE, workers), batch_size=5))
    assert [len(batch.labels) for batch in batches] == [5] * 8 + [2]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(42))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [sample.identity for sample in noise.query]
    assert torch.cat([batch.cameras for batch in batches]).tolist() == [sample.camera for sample in noise.query]
    assert torch.equal(torch.cat([batch.images for batch in batches])[3], decode(noise.query[3].path))


def test_images_are_kept_only_where_they_fit(noise):
    paths = [sample.path for sample in noise.query]
    kept = Images(paths, SIZE)
    assert kept.kept
    on_demand = Images(paths, SIZE, limit=1000)
    assert not on_demand.kept
    assert all(torch.equal(kept[index], on_demand[index]) for index in range(len(paths)))
    resized = Images(paths, (8, 12))
    assert resized.kept
    assert resized[0].shape == (3, 8, 12)


def test_one_image_of_another_size_is_resized(noise):
    Image.new("L", (50, 40), 99).save(noise.query[5].path)
    images = Images([sample.path for sample in noise.query], SIZE)
    assert images[5].shape == (3, *SIZE)
    assert (images[5] == 99).all()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "missing", "text"])
def test_a_broken_image_is_named(noise, damage, workers):
    path = noise.query[20].path
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "text":
        path.write_text("not an image")
    else:
        assert noise.query, "it is listed before the file goes away"
        path.unlink()
    with pytest.raises(UserError, match=str(path)):
        list(evaluated(noise.query, Loading((8, 8), workers)))
    with pytest.raises(UserError, match=str(path)):
        evaluated(noise.query, Loading(SIZE))


def test_too_few_identities(noise):
    with pytest.raises(UserError, match="training set of 6"):
        train_loader(noise, AUGMENT, identities=7, images=2, seed=0, loading=Loading(SIZE))


def test_a_set_without_images(noise):
    shutil.rmtree(noise.folder / "train")
    with pytest.raises(UserError, match="there are no train images"):
        train_loader(noise, AUGMENT, identities=2, images=2, seed=0, loading=Loading(SIZE))
