"""Properties of an evaluation that hold for any embeddings."""

import math
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch

from benchmark.retrieval import Embeddings, KReciprocal, Protocol, QueryExpansion, Scores, evaluate
from benchmark.retrieval._matching import Matching
from benchmark.retrieval._search import _StreamRanker

LEAVE_ONE_OUT = Protocol(camera_rule=False, query_in_gallery=True)


@pytest.fixture(params=[Protocol(), LEAVE_ONE_OUT], ids=["two lists", "leave-one-out"])
def protocol(request) -> Protocol:
    return request.param


@pytest.fixture
def torch_threads():
    """`torch_threads(2)` sets the number of torch's threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def chunk_bytes(monkeypatch):
    """`chunk_bytes(1000)` sets the size of a chunk for the rest of the test."""
    return lambda size: monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", size)


def assert_equal(one: Scores, other: Scores) -> None:
    torch.testing.assert_close(one.average_precision, other.average_precision, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(one.first_match_rank, other.first_match_rank, rtol=0, atol=0)
    torch.testing.assert_close(one.precision_at, other.precision_at, rtol=0, atol=0, equal_nan=True)
    assert (one.mAP, one.mINP, one.mAP_at_R, one.recall) == (other.mAP, other.mINP, other.mAP_at_R, other.recall)


@pytest.mark.parametrize("size", [8_000, 120_000, 1_000_000], ids=["streamed", "several chunks", "one chunk"])
def test_chunk_size_changes_nothing(clustered, chunk_bytes, protocol: Protocol, size: int):
    query, gallery = clustered(100), None if protocol.query_in_gallery else clustered(200, seed=1)
    expected = evaluate(query, gallery, protocol)
    chunk_bytes(size)
    assert_equal(evaluate(query, gallery, protocol), expected)


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_number_of_threads_changes_nothing(clustered, chunk_bytes, torch_threads, protocol: Protocol, size: int):
    query, gallery = clustered(120), None if protocol.query_in_gallery else clustered(250, seed=1)
    chunk_bytes(size)
    results = []
    for threads in (1, 2, 3):
        torch_threads(threads)
        results.append(evaluate(query, gallery, protocol, keep=5))
        assert torch.get_num_threads() == threads
    for other in results[1:]:
        assert_equal(other, results[0])
        assert torch.equal(other.neighbors.gallery_index, results[0].neighbors.gallery_index)


@pytest.mark.parametrize("size", [100_000, 200_000], ids=["streamed", "several chunks"])
def test_vectors_that_require_gradients(clustered, chunk_bytes, torch_threads, protocol: Protocol, size: int):
    query = clustered(200)
    expected = evaluate(query, query, protocol)
    with_gradients = Embeddings(query.vectors.clone().requires_grad_(), query.identities, query.cameras)
    chunk_bytes(size)
    torch_threads(2)
    assert_equal(evaluate(with_gradients, with_gradients, protocol), expected)


def test_order_of_the_gallery_changes_nothing(clustered):
    query, gallery = clustered(150), clustered(700, seed=1)
    duplicates = gallery.take(torch.arange(100))
    mislabeled = Embeddings(duplicates.vectors, duplicates.identities + 1, duplicates.cameras)  # ties
    gallery = Embeddings(
        *(
            torch.cat([getattr(part, name) for part in (gallery, duplicates, mislabeled)])
            for name in ("vectors", "identities", "cameras")
        )
    )
    expected = evaluate(query, gallery)
    for seed in range(3):
        order = torch.randperm(len(gallery), generator=torch.Generator().manual_seed(seed))
        assert_equal(evaluate(query, gallery.take(order)), expected)


@pytest.mark.parametrize("size", [500, 1_000_000], ids=["streamed", "one chunk"])
@pytest.mark.parametrize(
    ("ties", "positive", "negative", "rank"),
    [
        ("pessimistic", 1, 1 - 7e-7, 2),
        ("pessimistic", 1, 1 - 2e-6, 1),
        ("optimistic", 1 - 7e-7, 1, 1),
        ("optimistic", 1 - 2e-6, 1, 2),
    ],
)
def test_similarities_that_differ_by_rounding_are_tied(
    chunk_bytes, size: int, ties: str, positive: float, negative: float, rank: int
):
    chunk_bytes(size)
    query = Embeddings(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    vectors = torch.tensor([(cosine, math.sqrt(1 - cosine**2)) for cosine in (positive, negative)])
    gallery = Embeddings(vectors, torch.tensor([0, 1]))
    assert evaluate(query, gallery, Protocol(camera_rule=False, ties=ties)).first_match_rank == rank


@pytest.mark.parametrize("order", ["positives first", "positives last", "shuffled"])
@pytest.mark.parametrize("size", [1, 64, 2048])
def test_collapsed_model_scores_near_zero(order: str, size: int):
    """Equal vectors tie although the rounding of a product depends on the position in the matrix."""
    generator = torch.Generator().manual_seed(0)
    identities = {
        "positives first": torch.arange(1003) // 10,
        "positives last": (1002 - torch.arange(1003)) // 10,
        "shuffled": torch.randperm(1003, generator=generator) // 10,
    }[order]
    vector = torch.rand(1, size, generator=generator) + 0.1
    gallery = Embeddings(vector.repeat(1003, 1), identities, torch.arange(1003))
    query = Embeddings(3 * vector.repeat(7, 1), torch.zeros(7).long(), -torch.ones(7).long())
    for settings in ({}, {"reranking": KReciprocal()}, {"expansion": QueryExpansion()}):
        scores = evaluate(query, gallery, Protocol(**settings))
        assert scores.mAP < 0.01 and scores.mINP < 0.011 and scores.recall[10] == 0
        assert set(scores.first_match_rank.tolist()) == {994}  # after all 993 negatives


def test_perfect_model_scores_one():
    identities = torch.arange(60) % 12
    embeddings = Embeddings(torch.eye(12)[identities], identities, torch.arange(60))
    scores = evaluate(embeddings, None, LEAVE_ONE_OUT)
    assert (scores.mAP, scores.mINP, scores.recall, scores.skipped) == (1, 1, {1: 1, 5: 1, 10: 1}, 0)


def test_leave_one_out_with_the_gallery_of_another_model(clustered):
    student = clustered(200)
    teacher = Embeddings(student.vectors.flip(0), student.identities, student.cameras)
    copy = Embeddings(student.vectors.clone(), student.identities, student.cameras)
    assert_equal(evaluate(student, copy, LEAVE_ONE_OUT), evaluate(student, None, LEAVE_ONE_OUT))
    assert evaluate(student, teacher, LEAVE_ONE_OUT).mAP < evaluate(student, None, LEAVE_ONE_OUT).mAP
    with pytest.raises(ValueError, match="the labels of query and gallery differ"):
        evaluate(student, clustered(200, seed=1), LEAVE_ONE_OUT)


def test_arrays_and_lists(clustered):
    lists = clustered(50), clustered(200, seed=1)
    as_arrays = [
        Embeddings(part.vectors.numpy(), part.identities.numpy().astype(np.int32), part.cameras.tolist())
        for part in lists
    ]
    assert_equal(evaluate(*as_arrays), evaluate(*lists))


def test_half_precision_embeddings_are_compared_in_float32(clustered):
    half = [Embeddings(e.vectors.half(), e.identities, e.cameras) for e in (clustered(150), clustered(700, seed=1))]
    single = [Embeddings(e.vectors.float(), e.identities, e.cameras) for e in half]
    assert_equal(evaluate(*half), evaluate(*single))


def test_only_the_camera_rule_needs_cameras(clustered):
    query, gallery = (Embeddings(e.vectors, e.identities) for e in (clustered(50), clustered(200, seed=1)))
    assert evaluate(query, gallery, Protocol(camera_rule=False)).queries == 50
    with pytest.raises(ValueError, match=r"the queries have no cameras: pass .* or use Protocol"):
        evaluate(query, gallery)


@pytest.mark.parametrize("protocol", [Protocol(), LEAVE_ONE_OUT, Protocol(ties="optimistic", junk=(3,))])
def test_memory_mapped_gallery(clustered, chunk_bytes, tmp_path, protocol: Protocol):
    query = clustered(200)
    gallery = query if protocol.query_in_gallery else clustered(600, seed=1)
    expected = evaluate(query, gallery, protocol, keep=7)
    np.save(tmp_path / "gallery.npy", gallery.vectors.numpy())
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    chunk_bytes(60_000)
    assert _StreamRanker.is_suitable(gallery.vectors)
    scores = evaluate(query, Embeddings(mapped, gallery.identities, gallery.cameras), protocol, keep=7)
    assert_equal(scores, expected)
    torch.testing.assert_close(scores.neighbors.similarity, expected.neighbors.similarity, rtol=0, atol=1e-6)
    same = scores.neighbors.gallery_index == expected.neighbors.gallery_index
    assert same.float().mean() > 0.99  # ties may differ


def test_expansion_and_reranking_precede_the_metrics(clustered):
    query, gallery = clustered(150), clustered(700, seed=1)
    plain = evaluate(query, gallery)
    expanded = evaluate(query, gallery, Protocol(expansion=QueryExpansion(k=3)))
    vectors = QueryExpansion(k=3).expand(query.vectors, gallery.vectors)
    assert_equal(expanded, evaluate(Embeddings(vectors, query.identities, query.cameras), gallery))
    reranked = evaluate(query, gallery, Protocol(reranking=KReciprocal(k1=8, k2=3)), keep=5)
    assert reranked.mAP > plain.mAP and expanded.mAP > plain.mAP
    scores = KReciprocal(k1=8, k2=3).similarity(query.vectors, gallery.vectors)(slice(0, 150))
    torch.testing.assert_close(reranked.neighbors.similarity, scores.sort(dim=1, descending=True).values[:, :5])


def test_precision_is_float32_under_autocast_and_tf32(clustered):
    query, gallery = clustered(150, size=300), clustered(700, size=300, seed=1)
    expected = evaluate(query, gallery)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_equal(evaluate(query, gallery), expected)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.slow
def test_needs_no_mmengine():
    code = "import sys; from benchmark.retrieval import *; sys.exit('mmengine' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_lists_that_do_not_match(clustered):
    with pytest.raises(ValueError, match="a gallery is needed"):
        evaluate(clustered(5))
    with pytest.raises(ValueError, match="differ in size: 24 and 23"):
        evaluate(clustered(5), clustered(5, size=23))
    with pytest.raises(ValueError, match="keep must be at least 0, not -1"):
        evaluate(clustered(50), None, LEAVE_ONE_OUT, keep=-1)


def test_no_correct_match_names_the_cause():
    zeros, ones, vectors = torch.zeros(3).long(), torch.ones(3).long(), torch.randn(3, 4)
    query = Embeddings(vectors, zeros, zeros)
    with pytest.raises(ValueError, match="none of 3 queries has a correct match: the camera rule ignores"):
        evaluate(query, query)
    with pytest.raises(ValueError, match="none of 3 queries has a correct match: no identity is in both lists"):
        evaluate(query, Embeddings(vectors, ones, zeros))
    with pytest.raises(ValueError, match="none of 3 queries has a correct match: no identity has two images"):
        evaluate(Embeddings(vectors, torch.arange(3), zeros), None, LEAVE_ONE_OUT)


def test_matches_are_looked_up_in_parts(chunk_bytes):
    chunk_bytes(1_000)
    images = Embeddings(torch.ones(10, 1), torch.arange(10))
    matching = Matching(images, images, Protocol(camera_rule=False))
    with pytest.raises(ValueError, match="queries 8 to 10 are outside the current part"):
        matching(slice(8, 10))
    blocks = list(chain.from_iterable(matching.blocks(1)))
    assert len(matching.parts) > 1 and blocks[-1].stop == 10
    indices = torch.cat([matching(rows).gallery_index for rows in chain.from_iterable(matching.blocks(1))])
    assert indices.flatten().tolist() == list(range(10))
