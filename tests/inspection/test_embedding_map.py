"""The map of embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.data.samples import Sample
from benchmark.errors import UserError
from benchmark.inspection import inspection_page, map_embeddings
from benchmark.inspection.embedding_map import MAX_IDENTITIES
from benchmark.retrieval import Embeddings


def clusters(count, images=6, dim=16):
    """Embeddings of well separated identities, and their samples."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count).repeat_interleave(images)
    vectors = torch.eye(count, dim)[labels] + 0.05 * torch.randn(len(labels), dim, generator=generator)
    samples = [Sample(Path(f"{index}.png"), label, 0) for index, label in enumerate(labels.tolist())]
    return Embeddings(vectors, labels), samples


def part(embeddings, rows):
    return Embeddings(embeddings.vectors[rows], embeddings.identities[rows])


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_images_of_an_identity_are_near_to_each_other(method):
    embeddings, samples = clusters(3)
    found = map_embeddings(embeddings, None, samples, method=method, identities=[2, 0])
    places = {point.sample: np.array([point.x, point.y]) for point in found.points}
    centers = [np.mean([places[s] for s in samples if s.identity == label], 0) for label in range(3)]
    for sample, place in places.items():
        distances = [np.linalg.norm(place - center) for center in centers]
        assert int(np.argmin(distances)) == sample.identity
    assert all(0 <= value <= 1 for place in places.values() for value in place)
    assert found == map_embeddings(embeddings, None, samples, method=method, identities=[2, 0])


def test_queries_come_before_the_gallery():
    embeddings, samples = clusters(3)
    found = map_embeddings(
        part(embeddings, slice(4)), part(embeddings, slice(4, None)), samples, method="pca", identities=[1]
    )
    assert {point.sample for point in found.points if point.query} == set(samples[:4])
    assert {point.sample for point in found.points if point.identity == 0} == set(samples[6:12])
    assert len(found.points) == found.images == len(samples)


def test_colored_images_are_kept_and_drawn_last(monkeypatch):
    monkeypatch.setattr("benchmark.inspection.embedding_map.MAX_POINTS", 20)
    embeddings, samples = clusters(12)
    found = map_embeddings(embeddings, None, samples, method="pca", identities=[5, 5, 7])
    assert found.identities == (5, 7) and found.images == 72 and len(found.points) == 20
    assert [point.identity is None for point in found.points] == [True] * 8 + [False] * 12


def test_number_of_colors_is_limited():
    embeddings, samples = clusters(12)
    found = map_embeddings(embeddings, None, samples, method="pca", identities=range(12))
    assert found.identities == tuple(range(MAX_IDENTITIES))


def test_equal_embeddings():
    embeddings = Embeddings(torch.ones(4, 1), torch.arange(4))
    samples = [Sample(Path(f"{index}.png"), index, 0) for index in range(4)]
    found = map_embeddings(embeddings, None, samples, method="pca", identities=[])
    assert {(point.x, point.y) for point in found.points} == {(0.0, 0.0)}


def test_too_few_images():
    embeddings, samples = clusters(1, images=2)
    with pytest.raises(UserError, match="at least 3 images, not 2; use --map none"):
        map_embeddings(embeddings, None, samples, method="tsne", identities=[])


def test_page_has_a_point_per_image(inspection, names):
    embeddings, samples = clusters(3)
    found = map_embeddings(
        part(embeddings, slice(4)), part(embeddings, slice(4, None)), samples, method="pca", identities=[1]
    )
    text = inspection_page(inspection, title="kd", facts={}, names=names, embedding_map=found)
    assert (text.count("<circle"), text.count("rotate(45)")) == (14, 4)
    assert text.count('<g class="c0">') == 6
    assert "<title>query: &lt;b id=" in text and 'href="#map"' in text
