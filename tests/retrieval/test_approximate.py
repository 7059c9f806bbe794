"""Approximate search against exact evaluation, and against a loop over the lists that faiss returns."""

import math
import sys
from dataclasses import replace

import faiss
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from benchmark.retrieval import Embeddings, KReciprocal, Protocol, QueryExpansion, evaluate
from benchmark.retrieval._similarity import ROUNDING
from benchmark.retrieval.approximate import ApproximateScores, evaluate_approximately

LEAVE_ONE_OUT = Protocol(camera_rule=False, query_in_gallery=True)
SCORES = ApproximateScores(
    index="HNSW32",
    k=5,
    recall_at=(1, 10),
    positives=torch.tensor([2, 0, 3, 1]),
    first_match_rank=torch.tensor([2, 0, 0, 1]),
    average_precision=torch.tensor([0.5, torch.nan, 0, 1]).double(),
    sampled=3,
    neighbour_recall=0.9,
    mAP_error=-0.125,
)


def clustered(count: int, size: int = 24, identities: int = 40, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(identities, size, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(identities, (count,), generator=generator)
    vectors = centres[labels] + torch.randn(count, size, generator=generator)
    return Embeddings(vectors, labels, torch.randint(5, (count,), generator=generator))


def with_ties(embeddings: Embeddings) -> Embeddings:
    """The same and, as far again, some of its pictures under another identity."""
    labels = torch.cat([embeddings.identities, embeddings.identities + 1])
    return Embeddings(embeddings.vectors.repeat(2, 1), labels, embeddings.cameras.repeat(2))


def both(protocol: Protocol) -> tuple[Embeddings, Embeddings | None]:
    query = clustered(60)
    return (with_ties(query), None) if protocol.query_in_gallery else (query, with_ties(clustered(300, seed=1)))


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
@pytest.mark.parametrize(
    "rules",
    [
        {"camera_rule": True},
        {"camera_rule": False, "junk": (3, 7), "distractors": (2,)},
        {"camera_rule": True, "junk": (3,), "average_precision": "trapezoid"},
        {"camera_rule": False, "query_in_gallery": True},
        {"camera_rule": True, "query_in_gallery": True, "junk": (5,)},
    ],
    ids=lambda rules: ", ".join(rules),
)
def test_an_exhaustive_index_gives_the_exact_scores(rules: dict, ties: str):
    protocol = Protocol(**rules, ties=ties)
    query, gallery = both(protocol)
    exact = evaluate(query, gallery, protocol)
    scores = evaluate_approximately(query, gallery, protocol, index="Flat")
    assert torch.equal(scores.positives, exact.positives) and torch.equal(
        scores.first_match_rank, exact.first_match_rank
    )
    torch.testing.assert_close(scores.average_precision, exact.average_precision, rtol=0, atol=1e-9, equal_nan=True)
    assert scores.mAP == pytest.approx(exact.mAP, abs=1e-9) and scores.recall == pytest.approx(exact.recall)
    assert (scores.queries, scores.skipped) == (exact.queries, exact.skipped)
    assert scores.neighbour_recall == 1 and scores.mAP_error == pytest.approx(0, abs=1e-12)
    assert scores.k == len(query if gallery is None else gallery)


@pytest.mark.parametrize("protocol", [Protocol(), LEAVE_ONE_OUT])
def test_only_positives_beyond_the_first_k_are_lost(protocol: Protocol):
    query, gallery = clustered(120), None if protocol.query_in_gallery else clustered(300, seed=1)
    exact = evaluate(query, gallery, protocol, keep=25)
    scores = evaluate_approximately(query, gallery, protocol, index="Flat", k=25)
    complete = (exact.neighbours.relevance == 1).sum(dim=1) == exact.positives
    assert 0.3 < complete.double().mean() < 1
    difference = scores.average_precision - exact.average_precision
    assert difference[complete].nan_to_num().abs().max() <= 1e-9
    assert difference[~complete].max() < 0
    assert scores.mAP_error == pytest.approx(scores.mAP - exact.mAP, abs=1e-12)
    assert scores.neighbour_recall == 1


@pytest.mark.parametrize("protocol", [Protocol(), LEAVE_ONE_OUT])
def test_the_chunk_size_changes_nothing(monkeypatch, protocol: Protocol):
    query, gallery = clustered(120), None if protocol.query_in_gallery else clustered(300, seed=1)
    expected = evaluate_approximately(query, gallery, protocol, index="SQ8", k=40)
    monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", 20_000)
    scores = evaluate_approximately(query, gallery, protocol, index="SQ8", k=40)
    assert torch.equal(scores.first_match_rank, expected.first_match_rank)
    torch.testing.assert_close(scores.average_precision, expected.average_precision, rtol=0, atol=0, equal_nan=True)
    assert (scores.neighbour_recall, scores.mAP_error) == (expected.neighbour_recall, expected.mAP_error)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(  # (vector, identity, camera): short integer vectors point in few directions
        st.tuples(st.tuples(*[st.integers(-2, 2)] * 3), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=14
    ),
    st.builds(
        Protocol,
        camera_rule=st.booleans(),
        query_in_gallery=st.booleans(),
        average_precision=st.sampled_from(["rectangular", "trapezoid"]),
        junk=st.sampled_from([(), (0,), (0, 3)]),
        distractors=st.sampled_from([(), (1,)]),
        ties=st.sampled_from(["pessimistic", "optimistic"]),
    ),
    st.integers(1, 16),
    st.sampled_from(["Flat", "HNSW4", "SQ8"]),
)
def test_the_lists_of_any_index(samples: list, protocol: Protocol, k: int, index: str):
    vectors, identities, cameras = zip(*samples, strict=True)
    whole = Embeddings(torch.tensor(vectors).float(), torch.tensor(identities), torch.tensor(cameras))
    query = whole if protocol.query_in_gallery else whole.take(torch.arange((len(whole) + 1) // 2))
    unit = functional.normalize(whole.vectors).numpy()
    built = faiss.index_factory(3, index, faiss.METRIC_INNER_PRODUCT)
    built.train(unit)
    built.add(unit)
    lists = zip(*(found.tolist() for found in built.search(unit[: len(query)], min(k, len(whole)))), strict=True)
    expected = [naive(i, similarity, columns, samples, protocol) for i, (similarity, columns) in enumerate(lists)]
    assume(any(result is not None for result in expected))
    scores = evaluate_approximately(query, whole, protocol, index=index, k=k)
    for i, result in enumerate(expected):
        if result is None:
            assert scores.first_match_rank[i] == 0 and scores.average_precision[i].isnan()
        else:
            assert (scores.first_match_rank[i], scores.average_precision[i]) == pytest.approx(result, abs=1e-9)


def naive(i: int, similarity: list, columns: list, gallery: list, protocol: Protocol) -> tuple[int, float] | None:
    """First hit and average precision of the list of query i; None without positives."""
    _, identity, camera = gallery[i]

    def ignored(column: int) -> bool:
        _, other_identity, other_camera = gallery[column]
        same_camera = protocol.camera_rule and other_identity == identity and other_camera == camera
        return same_camera or other_identity in protocol.junk or (protocol.query_in_gallery and column == i)

    nobody = identity in protocol.junk + protocol.distractors
    positives = sum(other[1] == identity and not ignored(column) for column, other in enumerate(gallery))
    if nobody or not positives:
        return None
    answers = [
        (score, gallery[column][1] == identity)
        for score, column in zip(similarity, columns, strict=True)
        if column >= 0 and not ignored(column)
    ]
    margin = -ROUNDING if protocol.ties == "pessimistic" else ROUNDING  # no two cosines are as far apart as this
    wrong = [score for score, correct in answers if not correct]
    right = sorted((score for score, correct in answers if correct), reverse=True)
    hits = [place + sum(other > score + margin for other in wrong) for place, score in enumerate(right, start=1)]
    curve = [found / rank for found, rank in enumerate(hits, start=1)]
    if protocol.average_precision == "trapezoid":
        before = [1.0 if rank == 1 else found / (rank - 1) for found, rank in enumerate(hits)]
        curve = [(a + b) / 2 for a, b in zip(before, curve, strict=True)]
    return (hits[0] if hits else 0), math.fsum(curve) / positives


@pytest.mark.parametrize("index", ["IVF32,Flat", "PQ4x4fs"])
def test_a_poor_index_says_so(index: str):
    query, gallery = clustered(400), clustered(1500, seed=1)
    exact = evaluate(query, gallery, Protocol(), keep=10)
    scores = evaluate_approximately(query, gallery, Protocol(), index=index, k=100)
    assert scores.neighbour_recall < 0.9 and abs(scores.mAP_error) > 0.01
    every_second = slice(None, None, 2)  # of 400
    assert scores.sampled == 200
    error = (scores.average_precision - exact.average_precision)[every_second].mean().item()
    assert scores.mAP_error == pytest.approx(error, abs=1e-12)
    unit = functional.normalize(gallery.vectors).numpy()
    built = faiss.index_factory(24, index, faiss.METRIC_INNER_PRODUCT)
    built.train(unit)
    built.add(unit)
    _, returned = built.search(functional.normalize(query.vectors).numpy(), 100)
    pairs = zip(
        returned[every_second, :10].tolist(), exact.neighbours.gallery_index[every_second].tolist(), strict=True
    )
    found = [len(set(some) & set(right)) / 10 for some, right in pairs]
    assert scores.neighbour_recall == pytest.approx(sum(found) / 200, abs=1e-12)
    assert f"{scores.neighbour_recall:.4f}" in str(scores) and f"{scores.mAP_error:+.4f}" in str(scores)


def test_wrong_answers_that_an_index_leaves_out_are_in_the_error():
    """A list of few wrong answers can score higher than the whole one."""
    scores = evaluate_approximately(clustered(400), clustered(1500, seed=1), Protocol(), index="IVF32,Flat")
    assert scores.mAP_error > 0.1 and scores.neighbour_recall < 0.9


def test_a_graph_finds_nearly_all_neighbours():
    scores = evaluate_approximately(clustered(200), clustered(1500, seed=1), Protocol())
    assert scores.neighbour_recall > 0.95 and abs(scores.mAP_error) < 0.05 and scores.k == 1000


def test_another_entry_as_near_as_the_tenth_is_as_good():
    collapsed = Embeddings(torch.ones(500, 4), torch.arange(500) % 20, torch.arange(500))
    assert evaluate_approximately(collapsed, collapsed, Protocol(), index="IVF2,Flat", k=7).neighbour_recall == 1


def test_fewer_neighbours_than_ten_are_measured_where_fewer_are_searched_for():
    query, gallery = clustered(50), clustered(300, seed=1)
    assert evaluate_approximately(query, gallery, Protocol(), index="Flat", k=3).neighbour_recall == 1
    few = gallery.take(torch.arange(6))
    assert evaluate_approximately(query, few, Protocol(), index="Flat").neighbour_recall == 1


def test_an_index_is_trained_with_an_even_part_of_a_large_gallery(monkeypatch):
    monkeypatch.setattr("benchmark.retrieval.approximate._TRAINING_BYTES", 4 * 24 * 200)
    seen = []
    train = faiss.IndexIVFFlat.train
    monkeypatch.setattr(faiss.IndexIVFFlat, "train", lambda built, x: (seen.append(len(x)), train(built, x)))
    evaluate_approximately(clustered(50), clustered(1500, seed=1), Protocol(), index="IVF4,Flat")
    assert seen == [188]  # every eighth


def test_faiss_and_torch_use_several_threads_in_turn():
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        torch.set_num_threads(4)
        faiss.omp_set_num_threads(4)
        for index in ("HNSW32", "IVF8,Flat", "Flat"):
            scores = evaluate_approximately(clustered(300), clustered(1500, seed=1), Protocol(), index=index)
            assert scores.sampled == 150
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


@pytest.mark.parametrize(
    ("protocol", "rule"),
    [
        (Protocol(tracks=True), "tracks"),
        (Protocol(expansion=QueryExpansion()), "expansion"),
        (Protocol(reranking=KReciprocal()), "reranking"),
    ],
)
def test_rules_that_rank_anything_else_are_refused(protocol: Protocol, rule: str):
    with pytest.raises(ValueError, match=f"no protocol with {rule}"):
        evaluate_approximately(clustered(20), clustered(50, seed=1), protocol)


@pytest.mark.parametrize(
    ("index", "reason"),
    [("Flatt", "parse"), ("PQ5", "multiple"), ("IVF64,Flat", "training points"), ("LSH", "METRIC_L2"), ("", "parse")],
)
def test_an_index_that_cannot_be_built(index: str, reason: str):
    with pytest.raises(ValueError, match=f"cannot build the index '{index}' of 50 vectors of 24: .*{reason}"):
        evaluate_approximately(clustered(20), clustered(50, seed=1), Protocol(), index=index)


def test_what_does_not_fit_is_refused_before_anything_is_searched():
    query, gallery = clustered(20), clustered(50, seed=1)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        evaluate_approximately(query, gallery, Protocol(), k=0)
    with pytest.raises(ValueError, match="a gallery is needed"):
        evaluate_approximately(query, None, Protocol())
    with pytest.raises(ValueError, match="one list, but their labels differ"):
        evaluate_approximately(query, gallery, LEAVE_ONE_OUT)
    with pytest.raises(ValueError, match="differ in size: 24 and 8"):
        evaluate_approximately(query, clustered(50, size=8), Protocol())
    strangers = Embeddings(gallery.vectors, gallery.identities + 100, gallery.cameras)
    with pytest.raises(ValueError, match="20 queries have no positive in the gallery: no identity is in both lists"):
        evaluate_approximately(query, strangers, Protocol())


def test_faiss_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"needs faiss: pip install 'retrieval-distill-benchmark\[ann\]'"):
        evaluate_approximately(clustered(20), clustered(50, seed=1), Protocol())


def test_queries_without_any_positive_found_are_misses():
    assert (SCORES.queries, SCORES.skipped, SCORES.mAP) == (4, 1, 0.5)
    assert SCORES.recall == pytest.approx({1: 1 / 3, 10: 2 / 3})
    assert str(SCORES) == (
        "mAP 0.5000, Recall@1 0.3333, Recall@10 0.6667; approximate, by the first 5 of HNSW32: "
        "neighbour recall 0.9000, mAP error -0.1250 on 3 queries"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"first_match_rank": torch.tensor([2, 0, 1, 1])},
            "first_match_rank must be 0 where no correct answer",
        ),
        (
            {"first_match_rank": torch.tensor([2, 1, 0, 1])},
            "first_match_rank must be 0 where no correct answer",
        ),
        ({"first_match_rank": torch.tensor([2, 0])}, r"first_match_rank must be \(4,\) on the CPU, not \(2,\)"),
        ({"average_precision": 3 * SCORES.average_precision}, "between 0 and 1"),
        ({"positives": torch.zeros(4).long()}, "none of 4 queries has a positive"),
    ],
)
def test_scores_that_cannot_be(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(SCORES, **change)
