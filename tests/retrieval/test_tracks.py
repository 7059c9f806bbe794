"""Ranking tracks instead of images."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.retrieval import Embeddings, Protocol, evaluate

PROTOCOL = Protocol(camera_rule=True, recall_at=(1, 2), tracks=True)


def embeddings(samples, tracks=True) -> Embeddings:
    vectors, identities, cameras, numbers = zip(*samples, strict=True)
    return Embeddings(
        torch.tensor(vectors).float(),
        torch.tensor(identities),
        torch.tensor(cameras),
        torch.tensor(numbers) if tracks else None,
    )


VECTOR = st.tuples(*[st.integers(-2, 2)] * 3)
TRACKS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.lists(VECTOR, min_size=1, max_size=4)), min_size=1, max_size=6
)
QUERIES = st.lists(st.tuples(VECTOR, st.integers(0, 3), st.integers(0, 2), st.just(0)), min_size=1, max_size=5)


@given(QUERIES, TRACKS, st.randoms(use_true_random=False))
def test_a_track_counts_like_its_most_similar_image(queries, tracks, random):
    """The same as ranking, for each query alone, a gallery of the best image of every track."""
    query = embeddings(queries)
    images = [
        (vector, identity, camera, 7 * number)
        for number, (identity, camera, vectors) in enumerate(tracks)
        for vector in vectors
    ]
    random.shuffle(images)
    gallery = embeddings(images)
    expected = []
    for vector, identity, camera, _ in queries:
        one = embeddings([(vector, identity, camera, 0)], tracks=False)
        normal = torch.nn.functional.normalize(one.vectors)
        best = []
        for other, other_camera, vectors in tracks:
            similar = torch.nn.functional.normalize(torch.tensor(vectors).float()) @ normal[0]
            best.append((vectors[int(similar.argmax())], other, other_camera, 0))
        try:
            found = evaluate(one, embeddings(best, tracks=False), replace(PROTOCOL, tracks=False))
            expected.append(found.average_precision.item())
        except ValueError:
            expected.append(float("nan"))
    if all(value != value for value in expected):
        with pytest.raises(ValueError, match="no positive"):
            evaluate(query, gallery, PROTOCOL)
    else:
        scores = evaluate(query, gallery, PROTOCOL)
        assert scores.average_precision.tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_what_cannot_be_ranked():
    query = embeddings([((1, 0, 0), 1, 1, 0)])
    with pytest.raises(ValueError, match="does not say which image is in which track"):
        evaluate(query, embeddings([((1, 0, 0), 1, 2, 0)], tracks=False), PROTOCOL)
    with pytest.raises(ValueError, match="track 5 has more than one identity"):
        evaluate(query, embeddings([((1, 0, 0), 1, 2, 5), ((1, 0, 0), 2, 2, 5)]), PROTOCOL)
    with pytest.raises(ValueError, match="track 5 has more than one camera"):
        evaluate(query, embeddings([((1, 0, 0), 1, 2, 5), ((1, 0, 0), 1, 3, 5)]), PROTOCOL)
    with pytest.raises(ValueError, match="exclude each other"):
        Protocol(tracks=True, query_in_gallery=True)
