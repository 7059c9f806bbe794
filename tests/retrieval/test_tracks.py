"""Ranking of tracks instead of images."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.retrieval import Embeddings, Protocol, evaluate

PROTOCOL = Protocol(camera_rule=True, recall_at=(1, 2), tracks=True)
VECTOR = st.tuples(*[st.integers(-2, 2)] * 3)
QUERIES = st.lists(  # (vector, identity, camera, track)
    st.tuples(VECTOR, st.integers(0, 3), st.integers(0, 2), st.just(0)), min_size=1, max_size=5
)
TRACKS = st.lists(  # (identity, camera, vectors)
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.lists(VECTOR, min_size=1, max_size=4)), min_size=1, max_size=6
)


def embeddings(samples, tracks=True) -> Embeddings:
    vectors, identities, cameras, numbers = zip(*samples, strict=True)
    return Embeddings(
        torch.tensor(vectors).float(),
        torch.tensor(identities),
        torch.tensor(cameras),
        torch.tensor(numbers) if tracks else None,
    )


@given(QUERIES, TRACKS, st.randoms(use_true_random=False))
def test_track_ranks_like_its_most_similar_image(queries, tracks, random):
    """Equals ranking, for each query alone, a gallery of the best image of every track."""
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
        unit = torch.nn.functional.normalize(one.vectors)
        best = []
        for track_identity, track_camera, vectors in tracks:
            cosines = torch.nn.functional.normalize(torch.tensor(vectors).float()) @ unit[0]
            best.append((vectors[int(cosines.argmax())], track_identity, track_camera, 0))
        try:
            scores = evaluate(one, embeddings(best, tracks=False), replace(PROTOCOL, tracks=False))
            expected.append(scores.average_precision.item())
        except ValueError:
            expected.append(float("nan"))
    if all(value != value for value in expected):
        with pytest.raises(ValueError, match="has a correct match"):
            evaluate(query, gallery, PROTOCOL)
    else:
        scores = evaluate(query, gallery, PROTOCOL)
        assert scores.average_precision.tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_rejects_galleries_without_consistent_tracks():
    query = embeddings([((1, 0, 0), 1, 1, 0)])
    with pytest.raises(ValueError, match="the protocol ranks tracks, but the gallery has no tracks"):
        evaluate(query, embeddings([((1, 0, 0), 1, 2, 0)], tracks=False), PROTOCOL)
    with pytest.raises(ValueError, match="track 5 has more than one identity"):
        evaluate(query, embeddings([((1, 0, 0), 1, 2, 5), ((1, 0, 0), 2, 2, 5)]), PROTOCOL)
    with pytest.raises(ValueError, match="track 5 has more than one camera"):
        evaluate(query, embeddings([((1, 0, 0), 1, 2, 5), ((1, 0, 0), 1, 3, 5)]), PROTOCOL)
