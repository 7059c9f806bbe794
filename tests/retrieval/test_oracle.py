"""Agreement with a loop over queries and gallery entries, on small problems full of ties and ignored entries."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.retrieval import (
    Embeddings,
    Matching,
    Protocol,
    Ranking,
    average_precision,
    evaluate,
    first_hit,
    inverse_negative_penalty,
)

RULES = st.sampled_from(["rectangular", "trapezoid"])
PROTOCOLS = st.builds(Protocol, st.booleans(), st.booleans(), st.just((1, 2, 5)), RULES)
SAMPLES = st.lists(  # (vector, identity, camera): short integer vectors point in few directions
    st.tuples(st.tuples(*[st.integers(-2, 2)] * 3), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12
)
SCORE = st.sampled_from([-math.inf, -2.5, -1.0, -1e-40, -0.0, 0.0, 1e-40, 0.3, 1.0, math.inf])
CHUNK_BYTES = st.sampled_from([1, 600, 2000, 10**9])


def embeddings(samples: list) -> Embeddings:
    vectors, identities, cameras = zip(*samples, strict=True)
    return Embeddings(torch.tensor(vectors).float(), torch.tensor(identities), torch.tensor(cameras))


def naive(scores: list[float], query: tuple, gallery: list, position: int, protocol: Protocol):
    """Average precision, inverse negative penalty and first hit of one query; None without positives."""
    _, identity, camera = query
    answers = []
    for other, (_, other_identity, other_camera) in enumerate(gallery):
        same = other_identity == identity
        if protocol.camera_rule and same and other_camera == camera:
            continue
        if protocol.query_in_gallery and other == position:
            continue
        answers.append((scores[other], same))
    answers.sort(key=lambda answer: (-answer[0], answer[1]))  # of equal scores, the wrong answers first
    hits = [rank for rank, (_, same) in enumerate(answers, start=1) if same]
    if not hits:
        return None
    curve = [found / rank for found, rank in enumerate(hits, start=1)]
    if protocol.average_precision == "trapezoid":  # with the precision one rank before
        before = [1.0 if rank == 1 else found / (rank - 1) for found, rank in enumerate(hits)]
        curve = [(a + b) / 2 for a, b in zip(before, curve, strict=True)]
    return sum(curve) / len(hits), len(hits) / hits[-1], hits[0]


def cosine(a: tuple, b: tuple) -> float:
    norms = math.hypot(*a) * math.hypot(*b)
    return round(sum(x * y for x, y in zip(a, b, strict=True)) / norms, 5) if norms else 0.0


@given(st.data(), SAMPLES, SAMPLES, PROTOCOLS, CHUNK_BYTES)
def test_ranking_any_scores(data, queries, others, protocol, chunk_bytes):
    gallery = queries if protocol.query_in_gallery else others
    row = st.lists(SCORE, min_size=len(gallery), max_size=len(gallery))
    scores = data.draw(st.lists(row, min_size=len(queries), max_size=len(queries)))
    matches = Matching(embeddings(queries), embeddings(gallery), protocol)(slice(0, len(queries)))
    with mock.patch("benchmark.retrieval.chunks.CHUNK_BYTES", chunk_bytes):
        ranking = Ranking.from_scores(torch.tensor(scores), matches)
    for i, query in enumerate(queries):
        precision = average_precision(ranking, protocol.average_precision)
        found = tuple(v[i].item() for v in (precision, inverse_negative_penalty(ranking), first_hit(ranking)))
        expected = naive(scores[i], query, gallery, i, protocol) or (math.nan, math.nan, 0)
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(SAMPLES, SAMPLES, PROTOCOLS, CHUNK_BYTES)
def test_evaluating_embeddings(queries, others, protocol, chunk_bytes):
    gallery = queries if protocol.query_in_gallery else others
    expected = [
        naive([cosine(query[0], other[0]) for other in gallery], query, gallery, i, protocol)
        for i, query in enumerate(queries)
    ]
    valid = [result for result in expected if result]
    with mock.patch("benchmark.retrieval.chunks.CHUNK_BYTES", chunk_bytes):
        arguments = embeddings(queries), None if protocol.query_in_gallery else embeddings(gallery), protocol
        if not valid:
            with pytest.raises(ValueError, match=f"{len(queries)} queries have no positive"):
                evaluate(*arguments)
            return
        scores = evaluate(*arguments)
    assert (scores.queries, scores.skipped) == (len(queries), len(queries) - len(valid))
    assert scores.mAP == pytest.approx(sum(precision for precision, _, _ in valid) / len(valid), abs=1e-12)
    assert scores.mINP == pytest.approx(sum(penalty for _, penalty, _ in valid) / len(valid), abs=1e-12)
    for k, share in scores.recall.items():
        assert share == pytest.approx(sum(hit <= k for _, _, hit in valid) / len(valid), abs=1e-12)
    assert scores.first_hit.tolist() == [result[2] if result else 0 for result in expected]
    precisions = [result[0] if result else math.nan for result in expected]
    assert scores.average_precision.tolist() == pytest.approx(precisions, abs=1e-12, nan_ok=True)
