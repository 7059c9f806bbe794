"""Agreement with a loop over queries and gallery entries on small problems with many ties, and with scikit-learn."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from benchmark.retrieval import (
    Embeddings,
    Matching,
    Protocol,
    Ranking,
    Scores,
    average_precision,
    average_precision_at_r,
    evaluate,
    first_match_rank,
    inverse_negative_penalty,
    precision_at,
    r_precision,
)

PROTOCOLS = st.builds(
    Protocol,
    camera_rule=st.booleans(),
    query_in_gallery=st.booleans(),
    recall_at=st.just((1, 2, 5)),
    average_precision=st.sampled_from(["rectangular", "trapezoid"]),
    junk=st.sampled_from([(), (0,), (0, 3)]),
    distractors=st.sampled_from([(), (1,)]),
    ties=st.sampled_from(["pessimistic", "optimistic"]),
)
SAMPLES = st.lists(  # (vector, identity, camera): short integer vectors point in few directions
    st.tuples(st.tuples(*[st.integers(-2, 2)] * 3), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12
)
SCORE = st.sampled_from([-2.5, -1.0, -1e-40, -0.0, 0.0, 1e-40, 0.3, 1.0])
CHUNK_BYTES = st.sampled_from([1, 600, 2000, 10**9])


def embeddings(samples: list) -> Embeddings:
    vectors, identities, cameras = zip(*samples, strict=True)
    return Embeddings(torch.tensor(vectors).float(), torch.tensor(identities), torch.tensor(cameras))


def naive_scores(scores: list[float], query: tuple, gallery: list, position: int, protocol: Protocol):
    """Return the scores of one query by name; None without positives."""
    _, identity, camera = query
    if identity in protocol.junk + protocol.distractors:
        return None
    entries = []
    for other, (_, other_identity, other_camera) in enumerate(gallery):
        same = other_identity == identity
        if protocol.camera_rule and same and other_camera == camera:
            continue
        if protocol.query_in_gallery and other == position:
            continue
        if other_identity in protocol.junk:
            continue
        entries.append((scores[other], same))
    negatives_first = protocol.ties == "pessimistic"
    entries.sort(key=lambda entry: (-entry[0], entry[1] == negatives_first))
    ranks = [rank for rank, (_, same) in enumerate(entries, start=1) if same]
    if not ranks:
        return None
    curve = [k / rank for k, rank in enumerate(ranks, start=1)]
    if protocol.average_precision == "trapezoid":  # averaged with the precision one rank before
        before = [1.0 if rank == 1 else k / (rank - 1) for k, rank in enumerate(ranks)]
        curve = [(a + b) / 2 for a, b in zip(before, curve, strict=True)]
    return {
        "positives": len(ranks),
        "first_match_rank": ranks[0],
        "average_precision": sum(curve) / len(ranks),
        "inverse_negative_penalty": len(ranks) / ranks[-1],
        "r_precision": sum(rank <= len(ranks) for rank in ranks) / len(ranks),
        "average_precision_at_r": sum(k / rank for k, rank in enumerate(ranks, 1) if rank <= len(ranks)) / len(ranks),
        "precision_at": [sum(rank <= k for rank in ranks) / k for k in protocol.recall_at],
    }


def assert_equal(values: dict[str, torch.Tensor], expected: list) -> None:
    for i, scores in enumerate(expected):
        if scores is None:
            assert (values["positives"][i], values["first_match_rank"][i]) == (0, 0)
            assert all(
                v[i].isnan().all() for name, v in values.items() if name not in ("positives", "first_match_rank")
            )
        else:
            for name, value in scores.items():
                assert values[name][i].tolist() == pytest.approx(value, abs=1e-12), name


def cosine(a: tuple, b: tuple) -> float:
    norms = math.hypot(*a) * math.hypot(*b)
    return round(sum(x * y for x, y in zip(a, b, strict=True)) / norms, 5) if norms else 0.0


@given(st.data(), SAMPLES, SAMPLES, PROTOCOLS)
def test_ranking_of_any_scores(data, queries, others, protocol):
    gallery = queries if protocol.query_in_gallery else others
    row = st.lists(SCORE, min_size=len(gallery), max_size=len(gallery))
    scores = data.draw(st.lists(row, min_size=len(queries), max_size=len(queries)))
    matching = Matching(embeddings(queries), embeddings(gallery), protocol)
    matches = matching(slice(0, len(queries)))
    given_scores = torch.tensor(scores).index_fill_(1, matching.junk(slice(None)), -math.inf)
    ranking = Ranking.from_scores(given_scores, matches, ties=protocol.ties)
    measured = {
        "positives": ranking.positives,
        "first_match_rank": first_match_rank(ranking),
        "average_precision": average_precision(ranking, protocol.average_precision),
        "inverse_negative_penalty": inverse_negative_penalty(ranking),
        "r_precision": r_precision(ranking),
        "average_precision_at_r": average_precision_at_r(ranking),
        "precision_at": precision_at(ranking, protocol.recall_at),
    }
    assert_equal(measured, [naive_scores(scores[i], query, gallery, i, protocol) for i, query in enumerate(queries)])


@settings(deadline=None)
@given(SAMPLES, SAMPLES, PROTOCOLS, CHUNK_BYTES)
def test_evaluation_of_embeddings(queries, others, protocol, chunk_bytes):
    """Small chunks make the gallery streamed in parts."""
    gallery = queries if protocol.query_in_gallery else others
    similarity = [[cosine(query[0], other[0]) for other in gallery] for query in queries]
    expected = [naive_scores(similarity[i], query, gallery, i, protocol) for i, query in enumerate(queries)]
    valid = [result for result in expected if result]
    with mock.patch("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes):
        arguments = embeddings(queries), None if protocol.query_in_gallery else embeddings(gallery), protocol
        if not valid:
            with pytest.raises(ValueError, match=f"none of {len(queries)} queries has a correct match"):
                evaluate(*arguments)
            return
        scores = evaluate(*arguments, keep=3)
    assert_equal({name: getattr(scores, name) for name in Scores.per_query()}, expected)
    assert (scores.queries, scores.skipped) == (len(queries), len(queries) - len(valid))
    for name, mean in (
        ("average_precision", scores.mAP),
        ("inverse_negative_penalty", scores.mINP),
        ("r_precision", scores.R_precision),
        ("average_precision_at_r", scores.mAP_at_R),
    ):
        assert mean == pytest.approx(sum(result[name] for result in valid) / len(valid), abs=1e-12)
    for column, k in enumerate(protocol.recall_at):
        assert scores.recall[k] == pytest.approx(sum(r["first_match_rank"] <= k for r in valid) / len(valid), abs=1e-12)
        precisions = [result["precision_at"][column] for result in valid]
        assert scores.precision[k] == pytest.approx(sum(precisions) / len(valid), abs=1e-12)
    for i, (query, row) in enumerate(zip(queries, similarity, strict=True)):
        neighbors = scores.neighbors
        indices = neighbors.gallery_index[i].tolist()
        assert neighbors.similarity[i].tolist() == pytest.approx(sorted(row, reverse=True)[:3], abs=1e-4)
        assert [row[index] for index in indices] == pytest.approx(neighbors.similarity[i].tolist(), abs=1e-4)
        assert len(set(indices)) == len(indices)
        relevance = [naive_relevance(query, gallery[index], i == index, protocol) for index in indices]
        assert neighbors.relevance[i].tolist() == relevance


def naive_relevance(query: tuple, other: tuple, itself: bool, protocol: Protocol) -> int:
    same = query[1] == other[1]
    if other[1] in protocol.junk or (protocol.camera_rule and same and query[2] == other[2]):
        return -1
    if protocol.query_in_gallery and itself:
        return -1
    return int(same and query[1] not in protocol.junk + protocol.distractors)


def test_average_precision_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    query, gallery = (
        Embeddings(torch.randn(n, 8, generator=generator), torch.randint(0, 5, (n,), generator=generator))
        for n in (20, 60)
    )
    scores = evaluate(query, gallery, Protocol(camera_rule=False))
    cosine = torch.nn.functional.cosine_similarity(query.vectors[:, None], gallery.vectors[None], dim=2)
    for i in range(20):
        expected = average_precision_score(gallery.identities == query.identities[i], cosine[i])
        assert scores.average_precision[i].item() == pytest.approx(expected, abs=1e-6)
