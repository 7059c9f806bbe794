"""What must hold of an evaluation whatever the embeddings."""

import subprocess
import sys

import pytest
import torch

from benchmark.retrieval import Embeddings, Protocol, Scores, evaluate

LEAVE_ONE_OUT = Protocol(camera_rule=False, query_in_gallery=True)


def clustered(count: int, size: int = 24, identities: int = 40, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(identities, size, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(identities, (count,), generator=generator)
    vectors = centres[labels] + torch.randn(count, size, generator=generator)
    return Embeddings(vectors, labels, torch.randint(5, (count,), generator=generator))


def take(embeddings: Embeddings, rows: torch.Tensor) -> Embeddings:
    return Embeddings(embeddings.vectors[rows], embeddings.identities[rows], embeddings.cameras[rows])


def assert_equal(one: Scores, other: Scores) -> None:
    torch.testing.assert_close(one.average_precision, other.average_precision, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(one.first_hit, other.first_hit, rtol=0, atol=0)
    assert (one.mAP, one.mINP, one.recall) == (other.mAP, other.mINP, other.recall)


@pytest.mark.parametrize("chunk_bytes", [1, 10_000, 1_000_000])
@pytest.mark.parametrize("protocol", [Protocol(), LEAVE_ONE_OUT])
def test_the_chunk_size_changes_nothing(monkeypatch, protocol: Protocol, chunk_bytes: int):
    query = clustered(150)
    gallery = None if protocol.query_in_gallery else clustered(700, seed=1)
    expected = evaluate(query, gallery, protocol)
    monkeypatch.setattr("benchmark.retrieval.chunks.CHUNK_BYTES", chunk_bytes)
    assert_equal(evaluate(query, gallery, protocol), expected)


def test_the_order_of_the_gallery_changes_nothing():
    query, gallery = clustered(150), clustered(700, seed=1)
    duplicates = take(gallery, torch.arange(100))  # the same picture under another name: ties
    mislabelled = Embeddings(duplicates.vectors, duplicates.identities + 1, duplicates.cameras)
    gallery = Embeddings(
        *(
            torch.cat([getattr(part, name) for part in (gallery, duplicates, mislabelled)])
            for name in ("vectors", "identities", "cameras")
        )
    )
    expected = evaluate(query, gallery, Protocol())
    for seed in range(3):
        order = torch.randperm(len(gallery), generator=torch.Generator().manual_seed(seed))
        assert_equal(evaluate(query, take(gallery, order), Protocol()), expected)


@pytest.mark.parametrize("order", ["positives first", "positives last", "shuffled"])
@pytest.mark.parametrize("size", [1, 64, 2048])
def test_a_collapsed_model_scores_near_zero(order: str, size: int):
    """Whatever the order of the gallery, though the rounding of a product depends on the place in the matrix."""
    generator = torch.Generator().manual_seed(0)
    identities = {
        "positives first": torch.arange(1003) // 10,
        "positives last": (1002 - torch.arange(1003)) // 10,
        "shuffled": torch.randperm(1003, generator=generator) // 10,
    }[order]
    vector = torch.rand(1, size, generator=generator) + 0.1
    gallery = Embeddings(vector.repeat(1003, 1), identities, torch.arange(1003))
    query = Embeddings(3 * vector.repeat(7, 1), torch.zeros(7).long(), -torch.ones(7).long())
    scores = evaluate(query, gallery, Protocol())
    assert scores.mAP < 0.01 and scores.mINP < 0.011 and scores.recall[10] == 0
    assert set(scores.first_hit.tolist()) == {994}  # behind all 993 negatives


def test_a_perfect_model_scores_one():
    identities = torch.arange(60) % 12
    embeddings = Embeddings(torch.eye(12)[identities], identities, torch.arange(60))
    scores = evaluate(embeddings, None, LEAVE_ONE_OUT)
    assert (scores.mAP, scores.mINP, scores.recall, scores.skipped) == (1, 1, {1: 1, 5: 1, 10: 1}, 0)


def test_leave_one_out_takes_a_gallery_embedded_by_another_model():
    student = clustered(200)
    teacher = Embeddings(student.vectors.flip(0), student.identities, student.cameras)
    itself = Embeddings(student.vectors.clone(), student.identities, student.cameras)
    assert_equal(evaluate(student, itself, LEAVE_ONE_OUT), evaluate(student, None, LEAVE_ONE_OUT))
    assert evaluate(student, teacher, LEAVE_ONE_OUT).mAP < evaluate(student, None, LEAVE_ONE_OUT).mAP
    with pytest.raises(ValueError, match="one list, but their labels differ"):
        evaluate(student, clustered(200, seed=1), LEAVE_ONE_OUT)


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a gallery is needed"):
        evaluate(clustered(5), None, Protocol())
    with pytest.raises(ValueError, match="differ in size: 24 and 23"):
        evaluate(clustered(5), clustered(5, size=23), Protocol())


def test_no_valid_query_is_an_error_that_names_the_cause():
    zeros, ones, vectors = torch.zeros(3).long(), torch.ones(3).long(), torch.randn(3, 4)
    query = Embeddings(vectors, zeros, zeros)
    with pytest.raises(ValueError, match="3 queries have no positive after the same-camera rule"):
        evaluate(query, query, Protocol())
    with pytest.raises(ValueError, match="3 queries have no positive in the gallery: no identity is in both lists"):
        evaluate(query, Embeddings(vectors, ones, zeros), Protocol())
    with pytest.raises(ValueError, match="3 queries have no positive besides themselves"):
        evaluate(Embeddings(vectors, torch.arange(3), zeros), None, LEAVE_ONE_OUT)


def test_precision_is_full_whatever_is_allowed_outside():
    query, gallery = clustered(150, size=300), clustered(700, size=300, seed=1)
    expected = evaluate(query, gallery, Protocol())
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_equal(evaluate(query, gallery, Protocol()), expected)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_half_precision_embeddings_are_compared_in_float32():
    query, gallery = clustered(150), clustered(700, seed=1)
    half = [Embeddings(e.vectors.half(), e.identities, e.cameras) for e in (query, gallery)]
    back = [Embeddings(e.vectors.float(), e.identities, e.cameras) for e in half]
    assert_equal(evaluate(*half, Protocol()), evaluate(*back, Protocol()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_scores():
    query, gallery = clustered(150), clustered(700, seed=1)
    on_gpu = [Embeddings(*(t.cuda() for t in (e.vectors, e.identities, e.cameras))) for e in (query, gallery)]
    assert evaluate(*on_gpu, Protocol()).mAP == pytest.approx(evaluate(query, gallery, Protocol()).mAP, abs=1e-5)


def test_evaluation_needs_no_mmengine():
    code = "import sys, benchmark.retrieval; sys.exit('mmengine' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
