"""Approximate search against the exact evaluation, and against a loop over the lists that faiss returns."""

import math
import sys
from dataclasses import replace

import faiss
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from benchmark.retrieval import Embeddings, KReciprocal, Protocol, QueryExpansion, evaluate
from benchmark.retrieval._similarity import TIE_TOLERANCE
from benchmark.retrieval.approximate import ApproximateScores, choose_index, evaluate_approximately

LEAVE_ONE_OUT = Protocol(camera_rule=False, query_in_gallery=True)
SCORES = ApproximateScores(
    index="HNSW32",
    parameters="",
    k=5,
    recall_at=(1, 10),
    positives=torch.tensor([2, 0, 3, 1]),
    first_match_rank=torch.tensor([2, 0, 0, 1]),
    average_precision=torch.tensor([0.5, torch.nan, 0, 1]).double(),
    sampled=3,
    neighbor_recall=0.9,
    mAP_error=-0.125,
    build_seconds=1.0,
    search_seconds=2.0,
)


@pytest.fixture(scope="session")
def query(clustered) -> Embeddings:
    return clustered(400)


@pytest.fixture(scope="session")
def gallery(clustered) -> Embeddings:
    return clustered(1500, seed=1)


def with_ties(embeddings: Embeddings) -> Embeddings:
    """The embeddings, and each of them again with another identity."""
    labels = torch.cat([embeddings.identities, embeddings.identities + 1])
    return Embeddings(embeddings.vectors.repeat(2, 1), labels, embeddings.cameras.repeat(2))


def search(index: str, query: torch.Tensor, gallery: torch.Tensor, k: int) -> tuple[list, list]:
    """Return the similarities and gallery indices that faiss returns."""
    built = faiss.index_factory(gallery.shape[1], index, faiss.METRIC_INNER_PRODUCT)
    unit = normalize(gallery).numpy()
    built.train(unit)
    built.add(unit)
    similarity, gallery_index = built.search(normalize(query).numpy(), k)
    return similarity.tolist(), gallery_index.tolist()


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
    ids=", ".join,
)
def test_exhaustive_index_gives_the_exact_scores(clustered, rules: dict, ties: str):
    protocol = Protocol(**rules, ties=ties)
    query, gallery = clustered(60), with_ties(clustered(300, seed=1))
    if protocol.query_in_gallery:
        query, gallery = with_ties(query), None
    exact = evaluate(query, gallery, protocol)
    scores = evaluate_approximately(query, gallery, protocol, index="Flat")
    assert torch.equal(scores.positives, exact.positives)
    assert torch.equal(scores.first_match_rank, exact.first_match_rank)
    torch.testing.assert_close(scores.average_precision, exact.average_precision, rtol=0, atol=1e-9, equal_nan=True)
    assert scores.mAP == pytest.approx(exact.mAP, abs=1e-9) and scores.recall == pytest.approx(exact.recall)
    assert (scores.queries, scores.skipped) == (exact.queries, exact.skipped)
    assert scores.neighbor_recall == 1 and scores.mAP_error == pytest.approx(0, abs=1e-12)
    assert scores.k == len(query if gallery is None else gallery)
    assert scores.build_seconds > 0 and scores.search_seconds > 0


@pytest.mark.parametrize("protocol", [Protocol(), LEAVE_ONE_OUT])
def test_only_positives_beyond_k_are_lost(clustered, protocol: Protocol):
    query, gallery = clustered(120), None if protocol.query_in_gallery else clustered(300, seed=1)
    exact = evaluate(query, gallery, protocol, keep=25)
    scores = evaluate_approximately(query, gallery, protocol, index="Flat", k=25)
    complete = (exact.neighbors.relevance == 1).sum(dim=1) == exact.positives
    assert 0.3 < complete.double().mean() < 1
    difference = scores.average_precision - exact.average_precision
    assert difference[complete].nan_to_num().abs().max() <= 1e-9
    assert difference[~complete].max() < 0
    assert scores.mAP_error == pytest.approx(scores.mAP - exact.mAP, abs=1e-12)
    assert scores.neighbor_recall == 1


@pytest.mark.parametrize("protocol", [Protocol(), LEAVE_ONE_OUT])
def test_chunk_size_changes_nothing(clustered, monkeypatch, protocol: Protocol):
    query, gallery = clustered(120), None if protocol.query_in_gallery else clustered(300, seed=1)
    expected = evaluate_approximately(query, gallery, protocol, index="SQ8", k=40)
    monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", 20_000)
    scores = evaluate_approximately(query, gallery, protocol, index="SQ8", k=40)
    assert torch.equal(scores.first_match_rank, expected.first_match_rank)
    torch.testing.assert_close(scores.average_precision, expected.average_precision, rtol=0, atol=0, equal_nan=True)
    assert (scores.neighbor_recall, scores.mAP_error) == (expected.neighbor_recall, expected.mAP_error)


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
def test_equals_a_loop_over_the_lists_of_the_index(samples: list, protocol: Protocol, k: int, index: str):
    vectors, identities, cameras = zip(*samples, strict=True)
    gallery = Embeddings(torch.tensor(vectors).float(), torch.tensor(identities), torch.tensor(cameras))
    query = gallery if protocol.query_in_gallery else gallery.take(torch.arange((len(gallery) + 1) // 2))
    lists = zip(*search(index, query.vectors, gallery.vectors, min(k, len(gallery))), strict=True)
    expected = [naive_scores(i, *found, samples, protocol) for i, found in enumerate(lists)]
    assume(any(result is not None for result in expected))
    scores = evaluate_approximately(query, gallery, protocol, index=index, k=k)
    for i, result in enumerate(expected):
        if result is None:
            assert scores.first_match_rank[i] == 0 and scores.average_precision[i].isnan()
        else:
            assert (scores.first_match_rank[i], scores.average_precision[i]) == pytest.approx(result, abs=1e-9)


def naive_scores(
    i: int, similarity: list, gallery_index: list, gallery: list, protocol: Protocol
) -> tuple[int, float] | None:
    """Return the rank of the first match and the average precision of the list of query i; None without positives."""
    _, identity, camera = gallery[i]

    def is_ignored(entry: int) -> bool:
        _, entry_identity, entry_camera = gallery[entry]
        same_camera = protocol.camera_rule and entry_identity == identity and entry_camera == camera
        return same_camera or entry_identity in protocol.junk or (protocol.query_in_gallery and entry == i)

    never_matched = identity in protocol.junk + protocol.distractors
    positives = sum(other[1] == identity and not is_ignored(entry) for entry, other in enumerate(gallery))
    if never_matched or not positives:
        return None
    returned = [
        (score, gallery[entry][1] == identity)
        for score, entry in zip(similarity, gallery_index, strict=True)
        if entry >= 0 and not is_ignored(entry)
    ]
    # No two cosines of these vectors are as far apart as this, except equal ones.
    margin = -TIE_TOLERANCE if protocol.ties == "pessimistic" else TIE_TOLERANCE
    negative = [score for score, correct in returned if not correct]
    positive = sorted((score for score, correct in returned if correct), reverse=True)
    ranks = [place + sum(other > score + margin for other in negative) for place, score in enumerate(positive, start=1)]
    curve = [k / rank for k, rank in enumerate(ranks, start=1)]
    if protocol.average_precision == "trapezoid":
        before = [1.0 if rank == 1 else k / (rank - 1) for k, rank in enumerate(ranks)]
        curve = [(a + b) / 2 for a, b in zip(before, curve, strict=True)]
    return (ranks[0] if ranks else 0), math.fsum(curve) / positives


@pytest.mark.parametrize("index", ["IVF32,Flat", "PQ4x4fs"])
def test_error_of_a_poor_index_is_measured(query, gallery, index: str):
    exact = evaluate(query, gallery, keep=10)
    scores = evaluate_approximately(query, gallery, Protocol(), index=index, k=100)
    assert scores.neighbor_recall < 0.9 and abs(scores.mAP_error) > 0.01
    sample = slice(None, None, 2)  # every second of 400 queries
    assert scores.sampled == 200
    error = (scores.average_precision - exact.average_precision)[sample].mean().item()
    assert scores.mAP_error == pytest.approx(error, abs=1e-12)
    _, returned = search(index, query.vectors[sample], gallery.vectors, 100)
    pairs = zip(returned, exact.neighbors.gallery_index[sample].tolist(), strict=True)
    recalls = [len(set(some[:10]) & set(nearest)) / 10 for some, nearest in pairs]
    assert scores.neighbor_recall == pytest.approx(sum(recalls) / 200, abs=1e-12)
    assert f"{scores.neighbor_recall:.4f}" in str(scores) and f"{scores.mAP_error:+.4f}" in str(scores)


def test_error_is_positive_if_the_index_misses_negatives(query, gallery):
    scores = evaluate_approximately(query, gallery, Protocol(), index="IVF32,Flat")
    assert scores.mAP_error > 0.1 and scores.neighbor_recall < 0.9


def test_graph_finds_nearly_all_neighbors(query, gallery):
    scores = evaluate_approximately(query, gallery, Protocol())
    assert scores.neighbor_recall > 0.95 and abs(scores.mAP_error) < 0.05 and scores.k == 1000


def test_search_time_parameters(query, gallery):
    few, all_lists = (
        evaluate_approximately(query, gallery, Protocol(), index="IVF32,Flat", parameters=f"nprobe={lists}")
        for lists in (1, 32)
    )
    assert few.neighbor_recall < all_lists.neighbor_recall == 1 and all_lists.parameters == "nprobe=32"
    with pytest.raises(ValueError, match=r"index 'Flat' with nprobe=8 of 1500 vectors of size 24: .*nprobe"):
        evaluate_approximately(query, gallery, Protocol(), index="Flat", parameters="nprobe=8")


@pytest.mark.parametrize(
    ("kind", "images", "dimension", "expected"),
    [
        ("flat", 10, 7, ("Flat", "")),
        ("hnsw", 10, 7, ("HNSW32", "efSearch=256")),
        ("ivfpq", 624, 7, ("IVF16,PQ1x4", "nprobe=8")),
        ("ivfpq", 2_496, 64, ("IVF49,PQ16x6", "nprobe=8")),
        ("ivfpq", 15_913, 192, ("IVF126,PQ48x8", "nprobe=15")),
        ("ivfpq", 1_000_000, 2_048, ("IVF827,PQ64x8", "nprobe=103")),  # of 32,259 training vectors
    ],
)
def test_choice_of_an_index(kind: str, images: int, dimension: int, expected: tuple[str, str]):
    assert choose_index(kind, images, dimension) == expected


def test_chosen_index_is_trained_without_a_warning(query, gallery, capfd):
    factory, parameters = choose_index("ivfpq", *gallery.vectors.shape)
    scores = evaluate_approximately(query, gallery, Protocol(), index=factory, parameters=parameters)
    assert factory == "IVF38,PQ6x4" and 0.2 < scores.neighbor_recall < 1
    assert "WARNING" not in capfd.readouterr().err


def test_gallery_too_small_for_product_quantization():
    with pytest.raises(ValueError, match=r"a gallery of 623 vectors is too small .* needs 624: use flat or hnsw"):
        choose_index("ivfpq", 623, 64)


def test_entries_as_near_as_the_tenth_count_as_found():
    collapsed = Embeddings(torch.ones(500, 4), torch.arange(500) % 20, torch.arange(500))
    assert evaluate_approximately(collapsed, collapsed, Protocol(), index="IVF2,Flat", k=7).neighbor_recall == 1


def test_recall_of_fewer_than_ten_neighbors(query, gallery):
    assert evaluate_approximately(query, gallery, Protocol(), index="Flat", k=3).neighbor_recall == 1
    few = gallery.take(torch.arange(6))
    assert evaluate_approximately(query, few, Protocol(), index="Flat").neighbor_recall == 1


def test_training_uses_evenly_spaced_vectors_of_a_large_gallery(query, gallery, monkeypatch):
    monkeypatch.setattr("benchmark.retrieval.approximate._TRAINING_BYTES", 4 * 24 * 200)
    seen = []
    train = faiss.IndexIVFFlat.train
    monkeypatch.setattr(faiss.IndexIVFFlat, "train", lambda built, x: (seen.append(len(x)), train(built, x)))
    evaluate_approximately(query, gallery, Protocol(), index="IVF4,Flat")
    assert seen == [188]  # every eighth


def test_faiss_and_torch_use_several_threads_in_turn(query, gallery):
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        torch.set_num_threads(4)
        faiss.omp_set_num_threads(4)
        for index in ("HNSW32", "IVF8,Flat", "Flat"):
            scores = evaluate_approximately(query, gallery, Protocol(), index=index)
            assert scores.sampled == 200
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


@pytest.mark.parametrize(
    "setting", [{"tracks": True}, {"expansion": QueryExpansion()}, {"reranking": KReciprocal()}], ids=", ".join
)
def test_rejects_protocols_that_do_not_rank_single_images(query, gallery, setting: dict):
    with pytest.raises(ValueError, match=f"does not support protocols with {next(iter(setting))}: use the exact"):
        evaluate_approximately(query, gallery, Protocol(**setting))


@pytest.mark.parametrize(
    ("index", "reason"),
    [("Flatt", "parse"), ("PQ5", "multiple"), ("IVF64,Flat", "training points"), ("LSH", "METRIC_L2"), ("", "parse")],
)
def test_rejects_an_index_that_cannot_be_built(clustered, index: str, reason: str):
    with pytest.raises(ValueError, match=f"cannot build the index '{index}' of 50 vectors of size 24: .*{reason}"):
        evaluate_approximately(clustered(20), clustered(50, seed=1), Protocol(), index=index)


def test_rejects_lists_that_do_not_match(clustered):
    query, gallery = clustered(20), clustered(50, seed=1)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        evaluate_approximately(query, gallery, Protocol(), k=0)
    with pytest.raises(ValueError, match="a gallery is needed"):
        evaluate_approximately(query, None, Protocol())
    with pytest.raises(ValueError, match="the labels of query and gallery differ"):
        evaluate_approximately(query, gallery, LEAVE_ONE_OUT)
    with pytest.raises(ValueError, match="differ in size: 24 and 8"):
        evaluate_approximately(query, clustered(50, size=8), Protocol())
    strangers = Embeddings(gallery.vectors, gallery.identities + 100, gallery.cameras)
    with pytest.raises(ValueError, match="none of 20 queries has a correct match: no identity is in both lists"):
        evaluate_approximately(query, strangers, Protocol())


def test_missing_faiss(query, gallery, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"needs faiss: pip install 'retrieval-distill-benchmark\[ann\]'"):
        evaluate_approximately(query, gallery, Protocol())


def test_queries_without_a_returned_positive_are_misses():
    assert (SCORES.queries, SCORES.skipped, SCORES.mAP) == (4, 1, 0.5)
    assert SCORES.recall == pytest.approx({1: 1 / 3, 10: 2 / 3})
    assert str(SCORES) == (
        "mAP 0.5000, Recall@1 0.3333, Recall@10 0.6667; approximate, from the first 5 entries of HNSW32: "
        "neighbor recall 0.9000, mAP error -0.1250 on 3 queries"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_match_rank": torch.tensor([2, 0, 1, 1])}, "first_match_rank must be 0 where no correct match"),
        ({"first_match_rank": torch.tensor([2, 1, 0, 1])}, "first_match_rank must be 0 where no correct match"),
        ({"first_match_rank": torch.tensor([2, 0])}, r"first_match_rank must be \(4,\) on the CPU, not \(2,\)"),
        ({"average_precision": 3 * SCORES.average_precision}, "average_precision must be between 0 and 1"),
        ({"positives": torch.zeros(4).long()}, "none of 4 queries has a correct match"),
    ],
)
def test_rejects_inconsistent_scores(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(SCORES, **change)
