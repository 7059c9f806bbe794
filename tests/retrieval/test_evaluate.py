"""What must hold of an evaluation whatever the embeddings."""

import subprocess
import sys
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from benchmark.retrieval import Embeddings, KReciprocal, Protocol, QueryExpansion, Scores, evaluate
from benchmark.retrieval._matching import Matching
from benchmark.retrieval._product import Precision, product
from benchmark.retrieval._search import Streamed

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
    torch.testing.assert_close(one.first_match_rank, other.first_match_rank, rtol=0, atol=0)
    torch.testing.assert_close(one.precision_at, other.precision_at, rtol=0, atol=0, equal_nan=True)
    assert (one.mAP, one.mINP, one.mAP_at_R, one.recall) == (other.mAP, other.mINP, other.mAP_at_R, other.recall)


@pytest.mark.parametrize("chunk_bytes", [3_000, 30_000, 1_000_000])
@pytest.mark.parametrize("protocol", [Protocol(), LEAVE_ONE_OUT])
def test_the_chunk_size_changes_nothing(monkeypatch, protocol: Protocol, chunk_bytes: int):
    query = clustered(150)
    gallery = None if protocol.query_in_gallery else clustered(700, seed=1)
    expected = evaluate(query, gallery, protocol)
    monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes)
    assert_equal(evaluate(query, gallery, protocol), expected)


@pytest.mark.parametrize("chunk_bytes", [20_000, 200_000])
@pytest.mark.parametrize("protocol", [Protocol(), LEAVE_ONE_OUT])
def test_the_number_of_threads_changes_nothing(monkeypatch, protocol: Protocol, chunk_bytes: int):
    query = clustered(400)
    gallery = None if protocol.query_in_gallery else clustered(700, seed=1)
    monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(evaluate(query, gallery, protocol, keep=5))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert_equal(other, found[0])
        assert torch.equal(other.neighbours.gallery_index, found[0].neighbours.gallery_index)


@pytest.mark.parametrize("protocol", [Protocol(), LEAVE_ONE_OUT])
def test_vectors_that_want_gradients(monkeypatch, protocol: Protocol):
    query = clustered(400)
    expected = evaluate(query, query, protocol)
    wanting = Embeddings(query.vectors.clone().requires_grad_(), query.identities, query.cameras)
    monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", 200_000)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_equal(evaluate(wanting, wanting, protocol), expected)
    finally:
        torch.set_num_threads(before)


def test_lists_cannot_be_kept_in_part_below_zero():
    with pytest.raises(ValueError, match="keep: cannot keep -1"):
        evaluate(clustered(50), None, LEAVE_ONE_OUT, keep=-1)


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
    for rules in ({}, {"reranking": KReciprocal()}, {"expansion": QueryExpansion()}):
        scores = evaluate(query, gallery, Protocol(**rules))
        assert scores.mAP < 0.01 and scores.mINP < 0.011 and scores.recall[10] == 0
        assert set(scores.first_match_rank.tolist()) == {994}  # behind all 993 negatives


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


def test_arrays_and_lists_are_taken_as_they_are():
    query, gallery = clustered(50), clustered(200, seed=1)
    expected = evaluate(query, gallery, Protocol())
    as_arrays = [
        Embeddings(e.vectors.numpy(), e.identities.numpy().astype(np.int32), e.cameras.tolist())
        for e in (query, gallery)
    ]
    assert_equal(evaluate(*as_arrays), expected)


def test_cameras_are_needed_by_the_camera_rule_alone():
    query, gallery = (Embeddings(e.vectors, e.identities) for e in (clustered(50), clustered(200, seed=1)))
    assert evaluate(query, gallery, Protocol(camera_rule=False)).queries == 50
    with pytest.raises(ValueError, match="the queries have no cameras: give them, or Protocol\\(camera_rule=False\\)"):
        evaluate(query, gallery, Protocol())


@pytest.mark.parametrize("protocol", [Protocol(), LEAVE_ONE_OUT, Protocol(ties="optimistic", junk=(3,))])
def test_a_gallery_in_a_mapped_file_is_read_in_parts(tmp_path, monkeypatch, protocol: Protocol):
    query = clustered(300)
    gallery = query if protocol.query_in_gallery else clustered(900, seed=1)
    expected = evaluate(query, gallery, protocol, keep=7)
    np.save(tmp_path / "gallery.npy", gallery.vectors.numpy())
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", 60_000)
    assert Streamed.suits(gallery.vectors)
    found = evaluate(query, Embeddings(mapped, gallery.identities, gallery.cameras), protocol, keep=7)
    assert_equal(found, expected)
    torch.testing.assert_close(found.neighbours.similarity, expected.neighbours.similarity, rtol=0, atol=1e-6)
    assert (found.neighbours.gallery_index == expected.neighbours.gallery_index).float().mean() > 0.99  # but for ties


@pytest.fixture
def products_of_bfloat16(monkeypatch):
    """As of a processor that has them: on others, torch computes in float32 what may be less."""

    def rounded(queries: torch.Tensor, gallery: torch.Tensor, precision: Precision) -> torch.Tensor:
        if precision == "bf16":
            queries, gallery = queries.bfloat16().float(), gallery.bfloat16().float()
        return product(queries, gallery)

    monkeypatch.setattr("benchmark.retrieval._similarity.product", rounded)


def test_lower_precision_moves_no_score_by_much():
    query, gallery = clustered(400, size=64), clustered(700, size=64, seed=1)
    rough = evaluate(query, gallery, precision="bf16")
    moved = abs(rough.mAP - evaluate(query, gallery).mAP)
    assert moved <= 3 * rough.rounding_error and moved < 0.01


@pytest.mark.usefixtures("products_of_bfloat16")
def test_a_product_in_lower_precision_states_its_error():
    query, gallery = clustered(400, size=64), clustered(700, size=64, seed=1)
    exact = evaluate(query, gallery)
    rough = evaluate(query, gallery, precision="bf16")
    assert exact.rounding_error == 0
    moved = (exact.average_precision - rough.average_precision)[exact.valid][::2].abs().mean()
    assert rough.rounding_error == pytest.approx(moved.item(), rel=1e-6)
    assert 0 < abs(rough.mAP - exact.mAP) <= 3 * rough.rounding_error


@pytest.mark.usefixtures("products_of_bfloat16")
def test_the_error_of_lower_precision_is_that_of_queries_that_count():
    """The others lie between them, as many as the sample would leave out."""
    query, gallery = clustered(400, size=64), clustered(700, size=64, seed=1)
    identities = query.identities.clone()
    identities[::2] = -1
    rough = evaluate(replace(query, identities=identities), gallery, precision="bf16")
    alone = evaluate(query.take(torch.arange(1, 400, 2)), gallery, precision="bf16")
    assert alone.rounding_error > 0
    assert rough.rounding_error == pytest.approx(alone.rounding_error, rel=1e-6)


@pytest.mark.usefixtures("products_of_bfloat16")
def test_the_error_of_lower_precision_is_measured_on_a_part_of_one_list():
    protocol = Protocol(camera_rule=False, query_in_gallery=True, expansion=QueryExpansion(k=3))
    assert 0 < evaluate(clustered(600, size=64), None, protocol, precision="bf16").rounding_error < 0.05


@pytest.mark.parametrize("precision", ["tf32", "fp16", "float8"])
def test_a_precision_that_the_device_lacks_is_refused(precision: str):
    with pytest.raises(ValueError, match=f"products on cpu are in float32, bf16; not in '{precision}'"):
        evaluate(clustered(5), clustered(50), precision=precision)


def test_expansion_and_re_ranking_come_before_the_metrics():
    query, gallery = clustered(150), clustered(700, seed=1)
    plain = evaluate(query, gallery, Protocol())
    wider = evaluate(query, gallery, Protocol(expansion=QueryExpansion(k=3)))
    expanded = Embeddings(QueryExpansion(k=3).expand(query.vectors, gallery.vectors), query.identities, query.cameras)
    assert_equal(wider, evaluate(expanded, gallery, Protocol()))
    again = evaluate(query, gallery, Protocol(reranking=KReciprocal(k1=8, k2=3)), keep=5)
    assert again.mAP > plain.mAP and wider.mAP > plain.mAP
    distances = -KReciprocal(k1=8, k2=3).similarity(query.vectors, gallery.vectors)(slice(0, 150))
    torch.testing.assert_close(again.neighbours.similarity, -distances.sort(dim=1).values[:, :5])


def test_rules_that_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        Protocol(query_in_gallery=True, tracks=True)


@pytest.mark.parametrize("ks", [(), (0, 1)])
def test_recall_at_ranks_that_there_are_not(ks: tuple[int, ...]):
    with pytest.raises(ValueError, match="recall_at must name ranks from 1"):
        Protocol(recall_at=ks)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"ties": "optimstic"}, "ties must be pessimistic or optimistic, not 'optimstic'"),
        ({"average_precision": "11 points"}, "average_precision must be rectangular or trapezoid"),
        ({"junk": -1}, "junk must be a tuple of whole numbers, not -1"),
        ({"distractors": ("0",)}, "distractors must be a tuple of whole numbers"),
        ({"recall_at": 5}, "recall_at must be a tuple of whole numbers, not 5"),
    ],
)
def test_rules_that_there_are_not(rules, message: str):
    with pytest.raises(ValueError, match=message):
        Protocol(**rules)


def test_rules_may_come_in_lists_and_from_numpy():
    assert Protocol(junk=[-1], recall_at=list(np.arange(1, 3))) == Protocol(junk=(-1,), recall_at=(1, 2))


def test_products_of_both_libraries_agree(monkeypatch):
    query, gallery = clustered(150), clustered(700, seed=1)
    scores = []
    for slow in (False, True):
        monkeypatch.setattr("benchmark.retrieval._product._slow_mkl", lambda slow=slow: slow)
        scores.append(evaluate(query, gallery).mAP)
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


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


def test_matches_of_long_lists_are_looked_up_in_parts(monkeypatch):
    monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", 1_000)
    images = Embeddings(torch.ones(10, 1), torch.arange(10))
    matching = Matching(images, images, Protocol(camera_rule=False))
    with pytest.raises(ValueError, match="queries 8 to 10 are not of the part looked up: take rows from `blocks`"):
        matching(slice(8, 10))
    blocks = list(chain.from_iterable(matching.blocks(1)))
    assert len(matching.parts) > 1 and [(rows.start, rows.stop) for rows in blocks][-1][1] == 10
    columns = torch.cat([matching(rows).gallery_index for rows in chain.from_iterable(matching.blocks(1))])
    assert columns.flatten().tolist() == list(range(10))
