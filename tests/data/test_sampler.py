"""The P x K sampler."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmark.data.batch import PKBatchSampler
from benchmark.errors import UserError

COUNTS = st.lists(st.integers(1, 40), min_size=2, max_size=30)


def labels_with(counts) -> np.ndarray:
    """Return shuffled labels with the given number of images of each identity."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@settings(deadline=None, max_examples=200)
@given(counts=COUNTS, p=st.integers(1, 8), k=st.integers(1, 6), seed=st.integers(0, 2**32), epoch=st.integers(0, 99))
def test_batches(counts, p, k, seed, epoch):
    assume(len(counts) >= p)
    labels = labels_with(counts)
    sampler = PKBatchSampler(labels, p, k, seed=seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)

    # Every batch has P distinct identities with K images, which are different if the identity has K.
    assert len(batches) == len(sampler) == max(1, sum(counts) // (p * k))
    visits, draws = Counter(), Counter()
    for batch in batches:
        indices = np.array([draw.position for draw in batch]).reshape(p, k)
        identities = labels[indices]
        assert (identities == identities[:, :1]).all()
        assert len(set(identities[:, 0])) == p
        for identity, images in zip(identities[:, 0].tolist(), indices.tolist(), strict=True):
            visits[identity] += 1
            assert len(set(images)) == min(k, counts[identity])
        draws.update(indices.ravel().tolist())

    # Visits are in proportion to the images, and the images of an identity are drawn equally often.
    total = p * len(batches)
    if max(counts) * p <= sum(counts):  # no identity is limited to one visit per batch
        for identity, count in enumerate(counts):
            assert abs(visits[identity] - total * count / sum(counts)) < 1
    for identity in visits:
        times = [draws[index] for index in np.flatnonzero(labels == identity).tolist()]
        assert max(times) - min(times) <= 1

    seeds = [draw.seed for batch in batches for draw in batch]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_dominant_identity_is_in_every_batch():
    labels = labels_with([1000, 5, 5, 5, 5])
    batches = list(PKBatchSampler(labels, 3, 2, seed=0))
    visits = Counter(int(labels[draw.position]) for batch in batches for draw in batch[::2])
    assert visits[0] == len(batches)
    assert all(abs(visits[other] - 2 * len(batches) / 4) <= 1 for other in range(1, 5))


def test_order_depends_only_on_seed_and_epoch():
    labels = labels_with([7] * 20)
    sampler, other, reseeded = (PKBatchSampler(labels, 4, 3, seed=seed) for seed in (1, 1, 2))
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(5)
    other.set_epoch(5)
    assert list(sampler) == list(other) != first
    assert list(reseeded) != first


def test_every_pair_of_identities_meets():
    labels = labels_with([8] * 12)
    sampler = PKBatchSampler(labels, 4, 4, seed=0)
    pairs = set()
    for epoch in range(40):
        sampler.set_epoch(epoch)
        for batch in sampler:
            members = sorted({int(labels[draw.position]) for draw in batch})
            pairs.update((a, b) for a in members for b in members if a < b)
    assert len(pairs) == 12 * 11 // 2


@pytest.mark.parametrize("views", [2, 5])
def test_views_of_an_image_are_consecutive_with_different_seeds(views):
    labels = labels_with([4, 7, 9])
    single, multiple = (PKBatchSampler(labels, 2, 3, seed=1, views=number) for number in (1, views))
    assert len(single) == len(multiple)
    for batch, repeated in zip(single, multiple, strict=True):
        assert [draw.position for draw in repeated] == [draw.position for draw in batch for _ in range(views)]
    seeds = [draw.seed for batch in multiple for draw in batch]
    assert len(set(seeds)) == len(seeds)


def test_epoch_of_12000_images_takes_less_than_a_fifth_of_a_second():
    labels = np.random.default_rng(0).integers(1000, size=12_000)
    sampler = PKBatchSampler(labels, 16, 4, seed=0)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        list(sampler)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2


def test_rejects_too_few_identities_and_images():
    with pytest.raises(UserError, match="5 identities cannot be drawn from a training set of 3"):
        PKBatchSampler([0, 1, 2, 2], 5, 2, seed=0)
    with pytest.raises(UserError, match="at least 1"):
        PKBatchSampler([0, 1], 2, 0, seed=0)
