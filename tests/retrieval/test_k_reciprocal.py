"""k-reciprocal re-ranking agrees with fast-reid and torchreid, and with loops over points."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from benchmark.retrieval.reranking import KReciprocal, _RerankedScores

TAGS = ["k20_6_l30", "k10_3_l30", "k20_1_l50"]
SETTINGS = st.builds(KReciprocal, st.integers(1, 20), st.integers(1, 20), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
CHUNK_BYTES = st.sampled_from([1, 500, 3000, 10**9])


@st.composite
def problems(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and gallery around few centres, of any length, some of them the same image."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    count, size, clusters = draw(st.integers(2, 16)), draw(st.integers(3, 8)), draw(st.integers(1, 5))
    centres = torch.randn(clusters, size, generator=generator)
    points = torch.randn(count, size, generator=generator).mul_(0.5)
    points += centres[torch.randint(clusters, (count,), generator=generator)]
    if draw(st.booleans()):
        points = points[torch.randint(draw(st.integers(1, count)), (count,), generator=generator)]
    # Powers of two, so that the unit vectors of equal images stay equal.
    points *= 2.0 ** torch.randint(-3, 4, (count, 1), generator=generator)
    queries = draw(st.integers(1, count - 1))
    return points[:queries], points[queries:]


def squared_distances(query: torch.Tensor, gallery: torch.Tensor) -> np.ndarray:
    points = torch.cat([query, gallery]).double().numpy()
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return np.square(points[:, None] - points[None]).sum(axis=2)


def resolved(distances: np.ndarray) -> bool:
    """Whether float32 keeps the order of the distances, and enough digits of their share in the largest of a row."""
    gaps, largest = np.diff(np.sort(distances, axis=1), axis=1), distances.max(axis=1)
    return bool(((gaps == 0) | (gaps > 1e-5)).all() and ((largest == 0) | (largest > 0.5)).all())


def naive(distances: np.ndarray, queries: int, settings: KReciprocal) -> np.ndarray:
    """Scores from (N, N) squared distances, as the paper and the golden values' README put it."""
    count = len(distances)
    largest = distances.max(axis=1, keepdims=True)
    distances = distances / np.where(largest == 0, 1.0, largest)
    keys = [[(j != i, distances[i, j], j) for j in range(count)] for i in range(count)]  # itself first
    order = [[j for _, _, j in sorted(row)] for row in keys]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    codes = np.zeros((count, count))
    for i in range(count):
        near = reciprocal(i, settings.k1)
        extended = set(near)
        for j in near:
            candidates = reciprocal(j, int(np.around(settings.k1 / 2)))
            if 3 * len(candidates & near) > 2 * len(candidates):
                extended |= candidates
        for j in extended:
            codes[i, j] = np.exp(-distances[i, j])
        codes[i] /= codes[i].sum()
    if settings.k2 > 1:
        codes = np.stack([codes[order[i][: settings.k2]].mean(axis=0) for i in range(count)])
    codes = np.stack([codes[row == 0].mean(axis=0) for row in distances])
    scores = np.zeros((queries, count - queries))
    for i in range(queries):
        for j in range(queries, count):
            overlap = np.minimum(codes[i], codes[j]).sum()
            jaccard = 1 - overlap / (2 - overlap)
            scores[i, j - queries] = -(1 - settings.weight) * jaccard - settings.weight * distances[i, j]
    return scores


def mean_average_precision(scores: np.ndarray, arrays) -> float:
    """Under the camera rule."""
    precisions = []
    for row, identity, camera in zip(scores, arrays["rerank/q_ids"], arrays["rerank/q_cams"], strict=True):
        same = arrays["rerank/g_ids"] == identity
        kept = ~(same & (arrays["rerank/g_cams"] == camera))
        hits = same[kept][np.argsort(-row[kept])]
        if hits.any():
            precisions.append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())
    return float(np.mean(precisions))


def golden_case(arrays, tag: str) -> tuple[KReciprocal, torch.Tensor, torch.Tensor]:
    k1, k2, weight = (int(part.lstrip("kl")) for part in tag.split("_"))
    query, gallery = (torch.from_numpy(arrays[f"rerank/{name}_features"]) for name in ("query", "gallery"))
    return KReciprocal(k1, k2, weight / 100), query, gallery


@pytest.mark.parametrize("tag", TAGS)
def test_distances_of_fast_reid_and_torchreid(golden, tag: str):
    """Theirs are of the features as they are, whose lengths differ from 1 by up to 4e-5."""
    arrays = golden("retrieval").arrays
    settings, query, gallery = golden_case(arrays, tag)
    scores = _RerankedScores(torch.cat([query, gallery]), len(query), settings)(slice(0, len(query))).numpy()
    np.testing.assert_allclose(-scores, arrays[f"rerank/{tag}_rerank"], rtol=0, atol=1e-5)
    assert mean_average_precision(scores, arrays) == pytest.approx(float(arrays[f"rerank/{tag}_rerank_mAP"]), abs=1e-9)


@pytest.mark.parametrize("tag", TAGS)
def test_unit_vectors_of_their_features(golden, tag: str):
    arrays = golden("retrieval").arrays
    settings, query, gallery = golden_case(arrays, tag)
    scores = settings.similarity(query, gallery)(slice(0, len(query))).numpy()
    np.testing.assert_allclose(-scores, arrays[f"rerank/{tag}_rerank"], rtol=0, atol=5e-5)
    expected = naive(squared_distances(query, gallery), len(query), settings)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-6)
    assert mean_average_precision(scores, arrays) == pytest.approx(float(arrays[f"rerank/{tag}_rerank_mAP"]), abs=1e-9)


@hypothesis_settings(deadline=None)
@given(problems(), SETTINGS, CHUNK_BYTES)
def test_loops_over_points(problem, settings: KReciprocal, chunk_bytes: int):
    distances = squared_distances(*problem)
    assume(resolved(distances))
    queries = len(problem[0])
    with mock.patch("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes):
        scores = settings.similarity(*problem)(slice(0, queries))
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores, naive(distances, queries, settings), rtol=0, atol=5e-6)


@hypothesis_settings(deadline=None)
@given(st.integers(2, 9), SETTINGS)
def test_images_that_are_all_the_same(count: int, settings: KReciprocal):
    vector = torch.randn(1, 64, generator=torch.Generator().manual_seed(count))
    points = vector.expand(count, -1)
    scores = settings.similarity(points[:1], points[1:])(slice(0, 1))
    np.testing.assert_allclose(scores, naive(np.zeros((count, count)), 1, settings), rtol=0, atol=1e-6)


@hypothesis_settings(deadline=None)
@given(problems(), SETTINGS, st.randoms(use_true_random=False))
def test_the_order_of_the_gallery_does_not_matter(problem, settings: KReciprocal, random):
    query, gallery = problem
    assume(resolved(squared_distances(query, gallery)))
    order = list(range(len(gallery)))
    random.shuffle(order)
    rows = slice(0, len(query))
    expected = settings.similarity(query, gallery)(rows)[:, order]
    torch.testing.assert_close(settings.similarity(query, gallery[order])(rows), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("k1", [1, 3, 5, 7, 9, 50, 109, 200])
def test_neighbourhoods_of_any_size(golden, k1: int):
    """Half of an odd size is rounded to the even number, as numpy does."""
    _, query, gallery = golden_case(golden("retrieval").arrays, TAGS[0])
    settings = KReciprocal(k1, k2=4)
    scores = settings.similarity(query, gallery)(slice(0, len(query)))
    expected = naive(squared_distances(query, gallery), len(query), settings)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-6)


def test_rounding_that_depends_on_the_place_does_not_decide_ties():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(20, 8, generator=generator)[torch.randint(20, (60,), generator=generator)]
    multiply = torch.addmm

    def noisy(*arguments, **options) -> torch.Tensor:
        product = multiply(*arguments, **options)
        return product + torch.rand(product.shape, generator=generator).sub_(0.5).mul_(1e-6)

    settings = KReciprocal(5, 3)
    with mock.patch("torch.addmm", noisy):
        scores = settings.similarity(points[:20], points[20:])(slice(0, 20))
    expected = naive(squared_distances(points[:20], points[20:]), 20, settings)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("chunk_bytes", [1, 10_000, 100_000])
def test_chunks_do_not_matter(chunk_bytes: int):
    """Nor do they where images are repeated, and so equally far from every other."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 40, generator=generator)[torch.randint(60, (120,), generator=generator)]
    query, gallery = points[:30], points[30:]
    expected = KReciprocal().similarity(query, gallery)(slice(0, 30))
    with mock.patch("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes):
        reranked = KReciprocal().similarity(query, gallery)
        scores = torch.cat([reranked(slice(0, 1)), reranked(slice(1, 17)), reranked(slice(17, None))])
        assert len(reranked(slice(5, 5))) == 0
    torch.testing.assert_close(scores, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_point_type_is_taken_and_left_as_it_is(dtype: torch.dtype):
    points = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    before = points.detach().clone()
    scores = KReciprocal(5, 2).similarity(points[:10], points[10:])(slice(0, 10))
    assert scores.dtype == torch.float32 and not scores.requires_grad
    assert torch.equal(points, before)
    single = points.detach().float()
    expected = KReciprocal(5, 2).similarity(single[:10], single[10:])(slice(0, 10))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("k1", 0), ("k1", -1), ("k2", 0), ("weight", -0.1), ("weight", 1.1), ("weight", float("nan"))],
)
def test_settings_out_of_range_are_refused(name: str, value: Any):
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        KReciprocal(**{name: value})


@pytest.mark.parametrize("vectors", [torch.ones(4), torch.ones(4, 3, 2), torch.ones(0, 3), torch.ones(4, 3).long()])
def test_vectors_of_another_shape_or_type_are_refused(vectors: torch.Tensor):
    with pytest.raises(ValueError, match=r"query must be \(N, D\) floating point"):
        KReciprocal().similarity(vectors, torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"gallery must be \(N, D\) floating point"):
        KReciprocal().similarity(torch.ones(4, 3), vectors)


def test_vectors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="differ in size: 3 and 4"):
        KReciprocal().similarity(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="the query is on cpu, the gallery on meta"):
        KReciprocal().similarity(torch.ones(2, 3), torch.ones(2, 3, device="meta"))
