"""Fixed views: the same pixels for every seed, worker and process."""

from collections import defaultdict

import torch

from benchmark.data.augment import train_transform
from benchmark.data.batch import Draw, PKBatchSampler
from benchmark.data.fixed_views import view_seeds
from benchmark.data.loaders import Loading, train_loader

SIZE = (24, 16)
AUGMENT = train_transform(SIZE, pad=3, flip=0.5, erase=0.5)


def views_by_image(dataset, *, seed=0, workers=0, part=slice(None), epochs=(0,)) -> dict[int, set[bytes]]:
    """The pixels of all views of each image in the batches of a training."""
    loader = train_loader(
        dataset, AUGMENT, identities=3, images=2, seed=seed, loading=Loading(SIZE, workers), fixed_views=2
    )
    loader.batch_sampler.part = part
    found = defaultdict(set)
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
                found[index].add(image.numpy().tobytes())
    return found


def test_views_are_the_same_for_every_seed_worker_and_process(noise):
    reference = views_by_image(noise, epochs=range(20))
    assert len(reference) == 42
    assert {len(views) for views in reference.values()} == {2}
    for settings in ({"seed": 5}, {"workers": 2}, {"part": slice(3, 6)}):
        others = views_by_image(noise, **settings, epochs=(3, 4))
        assert all(views <= reference[image] for image, views in others.items())


def test_replacement_of_a_broken_image_has_its_own_view(noise):
    loader = train_loader(noise, AUGMENT, identities=3, images=2, seed=0, loading=Loading(SIZE), fixed_views=2)
    source = loader.source
    expected = source.__getitems__([Draw(1, 0, 1)]).images
    source.images.skip_broken = True
    source.images._broken[0] = True
    batch = source.__getitems__([Draw(0, 0, 1)])
    assert batch.indices.tolist() == [1]
    assert torch.equal(batch.images, expected)


def test_views_of_an_image_in_a_batch_differ():
    sampler = PKBatchSampler([0, 0, 1, 1, 2, 2], 2, 2, seed=0, views=3, fixed_views=4)
    draws = [draw for epoch in range(20) for batch in _epoch(sampler, epoch) for draw in batch]
    groups = [draws[first : first + 3] for first in range(0, len(draws), 3)]
    assert all(len({draw.position for draw in group}) == 1 for group in groups)
    assert all(len({draw.view for draw in group}) == 3 for group in groups)
    assert {draw.view for draw in draws} == {0, 1, 2, 3}


def _epoch(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_seeds():
    """They depend on the content alone, and differ in the bits that torch uses on CPUs."""
    seeds = view_seeds([f"{number}" for number in range(500)], 8)
    assert seeds.shape == (500, 8)
    assert (seeds >= 0).all()
    assert len((seeds % 2**32).unique()) == 4000
    assert torch.equal(view_seeds(["7"], 3)[0], seeds[7, :3])
