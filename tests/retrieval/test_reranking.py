"""k-reciprocal re-ranking against fast-reid and torchreid; re-ranking and query expansion against loops over points."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from benchmark.retrieval._reranking import RerankedScores
from benchmark.retrieval.reranking import KReciprocal, QueryExpansion

TAGS = ["k20_6_l30", "k10_3_l30", "k20_1_l50"]
RERANKINGS = st.builds(KReciprocal, st.integers(1, 20), st.integers(1, 20), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
EXPANSIONS = st.builds(QueryExpansion, st.integers(1, 14), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
CHUNK_BYTES = st.sampled_from([1, 500, 3000, 10**9])


def rerank(query: Tensor, gallery: Tensor, settings: KReciprocal) -> Tensor:
    """Return the scores of all queries."""
    return settings.similarity(query, gallery)(slice(0, len(query)))


def expand(query: Tensor, gallery: Tensor, settings: QueryExpansion) -> Tensor:
    return settings.expand(query, gallery)


def random_vectors(count: int, size: int, seed: int) -> Tensor:
    """Vectors of different norms."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator) * torch.rand(count, 1, generator=generator).add(0.1)


def unit(rows: Tensor) -> np.ndarray:
    array = rows.double().numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


@st.composite
def problems(draw) -> tuple[Tensor, Tensor]:
    """Queries and gallery around few centers, of any norm, some of them the same image."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    count, size, clusters = draw(st.integers(2, 16)), draw(st.integers(3, 8)), draw(st.integers(1, 5))
    centers = torch.randn(clusters, size, generator=generator)
    points = torch.randn(count, size, generator=generator).mul_(0.5)
    points += centers[torch.randint(clusters, (count,), generator=generator)]
    if draw(st.booleans()):
        points = points[torch.randint(draw(st.integers(1, count)), (count,), generator=generator)]
    # Powers of two, so that the unit vectors of equal images stay equal.
    points *= 2.0 ** torch.randint(-3, 4, (count, 1), generator=generator)
    queries = draw(st.integers(1, count - 1))
    return points[:queries], points[queries:]


def squared_distances(query: Tensor, gallery: Tensor) -> np.ndarray:
    points = unit(torch.cat([query, gallery]))
    return np.square(points[:, None] - points[None]).sum(axis=2)


def has_resolved_distances(query: Tensor, gallery: Tensor) -> bool:
    """Whether float32 keeps the order of the distances, and enough digits of their ratio to the largest of a row."""
    distances = squared_distances(query, gallery)
    gaps, largest = np.diff(np.sort(distances, axis=1), axis=1), distances.max(axis=1)
    return bool(((gaps == 0) | (gaps > 1e-5)).all() and ((largest == 0) | (largest > 0.5)).all())


def naive_rerank(distances: np.ndarray, queries: int, settings: KReciprocal) -> np.ndarray:
    """Scores from (N, N) squared distances, as described in the paper and in the README of the golden values."""
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


def naive_expand(query: Tensor, gallery: Tensor, settings: QueryExpansion, exclude_self: bool) -> np.ndarray:
    """The sums of the unit vectors, before they are normalized."""
    queries, images = unit(query), unit(gallery)
    sums = []
    for i, vector in enumerate(queries):
        cosines = [(vector @ image, j) for j, image in enumerate(images) if not (exclude_self and i == j)]
        total = vector.copy()
        for cosine, j in sorted(cosines, reverse=True)[: settings.k]:
            total += images[j] if settings.alpha == 0 else max(cosine, 0) ** settings.alpha * images[j]
        sums.append(total)
    return np.stack(sums)


def has_resolved_cosines(query: Tensor, gallery: Tensor) -> bool:
    """Whether float32 keeps the order of the cosine similarities."""
    return bool((np.diff(np.sort(unit(query) @ unit(gallery).T, axis=1), axis=1) > 1e-5).all())


class TestKReciprocal:
    @staticmethod
    def golden_case(arrays, tag: str) -> tuple[KReciprocal, Tensor, Tensor]:
        k1, k2, weight = (int(part.lstrip("kl")) for part in tag.split("_"))
        query, gallery = (torch.from_numpy(arrays[f"rerank/{name}_features"]) for name in ("query", "gallery"))
        return KReciprocal(k1, k2, weight / 100), query, gallery

    @staticmethod
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

    @pytest.mark.parametrize("tag", TAGS)
    def test_equals_fast_reid_and_torchreid(self, golden, tag: str):
        arrays = golden("retrieval").arrays
        settings, query, gallery = self.golden_case(arrays, tag)
        # Their features are not normalized; the norms differ from 1 by up to 4e-5.
        as_theirs = RerankedScores(torch.cat([query, gallery]), len(query), settings)(slice(0, len(query))).numpy()
        normalized = rerank(query, gallery, settings).numpy()
        expected = float(arrays[f"rerank/{tag}_rerank_mAP"])
        for scores, tolerance in ((as_theirs, 1e-5), (normalized, 5e-5)):
            np.testing.assert_allclose(-scores, arrays[f"rerank/{tag}_rerank"], rtol=0, atol=tolerance)
            assert self.mean_average_precision(scores, arrays) == pytest.approx(expected, abs=1e-9)
        naive = naive_rerank(squared_distances(query, gallery), len(query), settings)
        np.testing.assert_allclose(normalized, naive, rtol=0, atol=2e-6)

    @pytest.mark.parametrize("k1", [1, 3, 5, 7, 9, 50, 109, 200])
    def test_neighborhoods_of_any_size(self, golden, k1: int):
        """Half of an odd size is rounded to the even number, as NumPy does."""
        _, query, gallery = self.golden_case(golden("retrieval").arrays, TAGS[0])
        settings = KReciprocal(k1, k2=4)
        expected = naive_rerank(squared_distances(query, gallery), len(query), settings)
        np.testing.assert_allclose(rerank(query, gallery, settings), expected, rtol=0, atol=2e-6)

    @hypothesis_settings(deadline=None)
    @given(problems(), RERANKINGS, CHUNK_BYTES)
    def test_equals_loops(self, problem, settings: KReciprocal, chunk_bytes: int):
        assume(has_resolved_distances(*problem))
        with mock.patch("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes):
            scores = rerank(*problem, settings)
        assert scores.dtype == torch.float32
        expected = naive_rerank(squared_distances(*problem), len(problem[0]), settings)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=5e-6)

    @hypothesis_settings(deadline=None)
    @given(st.integers(2, 9), RERANKINGS)
    def test_equal_images(self, count: int, settings: KReciprocal):
        vector = torch.randn(1, 64, generator=torch.Generator().manual_seed(count))
        points = vector.expand(count, -1)
        expected = naive_rerank(np.zeros((count, count)), 1, settings)
        np.testing.assert_allclose(rerank(points[:1], points[1:], settings), expected, rtol=0, atol=1e-6)

    @hypothesis_settings(deadline=None)
    @given(problems(), RERANKINGS, st.randoms(use_true_random=False))
    def test_order_of_the_gallery_changes_nothing(self, problem, settings: KReciprocal, random):
        query, gallery = problem
        assume(has_resolved_distances(query, gallery))
        order = list(range(len(gallery)))
        random.shuffle(order)
        expected = rerank(query, gallery, settings)[:, order]
        torch.testing.assert_close(rerank(query, gallery[order], settings), expected, rtol=0, atol=5e-6)

    def test_rounding_does_not_break_ties(self):
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(20, 8, generator=generator)[torch.randint(20, (60,), generator=generator)]
        addmm = torch.addmm

        def noisy_addmm(*arguments, **options) -> Tensor:
            product = addmm(*arguments, **options)
            return product + torch.rand(product.shape, generator=generator).sub_(0.5).mul_(1e-6)

        with mock.patch("torch.addmm", noisy_addmm):
            scores = rerank(points[:20], points[20:], KReciprocal(5, 3))
        expected = naive_rerank(squared_distances(points[:20], points[20:]), 20, KReciprocal(5, 3))
        np.testing.assert_allclose(scores, expected, rtol=0, atol=5e-6)

    @pytest.mark.parametrize("chunk_bytes", [1, 10_000, 100_000])
    def test_chunks_change_nothing(self, chunk_bytes: int):
        """Also where images are repeated, so that they are equally far from every other image."""
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(60, 40, generator=generator)[torch.randint(60, (120,), generator=generator)]
        query, gallery = points[:30], points[30:]
        expected = rerank(query, gallery, KReciprocal())
        with mock.patch("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes):
            reranked = KReciprocal().similarity(query, gallery)
            scores = torch.cat([reranked(slice(0, 1)), reranked(slice(1, 17)), reranked(slice(17, None))])
            assert len(reranked(slice(5, 5))) == 0
        torch.testing.assert_close(scores, expected, rtol=0, atol=2e-6)


class TestQueryExpansion:
    @hypothesis_settings(deadline=None)
    @given(st.data(), EXPANSIONS, st.integers(1, 12), st.booleans(), CHUNK_BYTES, st.integers(0, 2**32))
    def test_equals_a_loop(
        self, data, settings: QueryExpansion, count: int, one_list: bool, chunk_bytes: int, seed: int
    ):
        query = random_vectors(count, 4, seed)
        gallery = query if one_list else random_vectors(data.draw(st.integers(1, 12)), 4, seed + 1)
        exclude_self = one_list and data.draw(st.booleans())
        sums = naive_expand(query, gallery, settings, exclude_self)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        assume(has_resolved_cosines(query, gallery) and norms.min() > 0.1)
        with mock.patch("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes):
            expanded = settings.expand(query, gallery, torch.arange(len(query)) if exclude_self else None)
        assert expanded.dtype == torch.float32
        # The root of a cosine near 0 magnifies its rounding.
        np.testing.assert_allclose(expanded, sums / norms, rtol=0, atol=1e-5 if settings.alpha in (0, 1, 3) else 2e-3)

    @hypothesis_settings(deadline=None)
    @given(EXPANSIONS, st.integers(0, 2**32), st.randoms(use_true_random=False))
    def test_order_of_the_gallery_changes_nothing(self, settings: QueryExpansion, seed: int, random):
        query, gallery = random_vectors(5, 8, seed), random_vectors(12, 8, seed + 1)
        norms = np.linalg.norm(naive_expand(query, gallery, settings, False), axis=1)
        assume(has_resolved_cosines(query, gallery) and norms.min() > 0.1)
        order = list(range(len(gallery)))
        random.shuffle(order)
        expected = settings.expand(query, gallery)
        torch.testing.assert_close(settings.expand(query, gallery[order]), expected, rtol=0, atol=2e-3)

    @pytest.mark.parametrize("chunk_bytes", [1, 10_000, 100_000])
    @pytest.mark.parametrize("exclude_self", [False, True])
    def test_chunks_change_nothing(self, chunk_bytes: int, exclude_self: bool):
        """Also where several equal images compete for the last place."""
        images = random_vectors(60, 16, 0)[torch.randint(60, (120,), generator=torch.Generator().manual_seed(1))]
        itself = torch.arange(len(images)) if exclude_self else None
        expected = QueryExpansion(alpha=1.0).expand(images, images, itself)
        with mock.patch("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes):
            expanded = QueryExpansion(alpha=1.0).expand(images, images, itself)
        torch.testing.assert_close(expanded, expected, rtol=0, atol=2e-6)

    def test_single_query_of_its_own_gallery_is_unchanged(self):
        query = random_vectors(1, 8, 0)
        expected = normalize(query, dim=1)
        torch.testing.assert_close(QueryExpansion().expand(query, query, torch.arange(1)), expected)
        torch.testing.assert_close(QueryExpansion(alpha=2.0).expand(query, -query), expected)

    def test_query_that_finds_itself_counts_twice(self):
        images = torch.eye(3)[:2] + 0.1
        first = normalize(images, dim=1)
        torch.testing.assert_close(QueryExpansion(k=1).expand(images, images), first)
        mean = normalize(first.sum(dim=0, keepdim=True), dim=1).expand(2, -1)
        torch.testing.assert_close(QueryExpansion(k=1).expand(images, images, torch.arange(len(images))), mean)


METHODS = pytest.mark.parametrize(
    ("method", "settings"), [(rerank, KReciprocal(5, 2)), (expand, QueryExpansion(3))], ids=["rerank", "expand"]
)


@METHODS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_point_type(method, settings, dtype: torch.dtype):
    query, gallery = random_vectors(10, 5, 0).to(dtype), random_vectors(20, 5, 1).to(dtype)
    before = query.clone(), gallery.clone()
    result = method(query.requires_grad_(), gallery, settings)
    assert result.dtype == torch.float32 and not result.requires_grad
    assert torch.equal(query, before[0]) and torch.equal(gallery, before[1])
    torch.testing.assert_close(result, method(before[0].float(), before[1].float(), settings), rtol=0, atol=1e-6)


@METHODS
@pytest.mark.parametrize("vectors", [torch.ones(4), torch.ones(4, 3, 2), torch.ones(0, 3), torch.ones(4, 3).long()])
def test_rejects_other_vectors(method, settings, vectors: Tensor):
    with pytest.raises(ValueError, match=r"query must be \(N, D\) floating point"):
        method(vectors, torch.ones(4, 3), settings)
    with pytest.raises(ValueError, match=r"gallery must be \(N, D\) floating point"):
        method(torch.ones(4, 3), vectors, settings)


@METHODS
def test_rejects_vectors_that_do_not_match(method, settings):
    with pytest.raises(ValueError, match="differ in size: 3 and 4"):
        method(torch.ones(2, 3), torch.ones(2, 4), settings)
    with pytest.raises(ValueError, match="must be on one device, not on cpu and meta"):
        method(torch.ones(2, 3), torch.ones(2, 3, device="meta"), settings)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (KReciprocal, "k1", 0),
        (KReciprocal, "k1", -1),
        (KReciprocal, "k2", 0),
        (KReciprocal, "weight", -0.1),
        (KReciprocal, "weight", 1.1),
        (KReciprocal, "weight", float("nan")),
        (QueryExpansion, "k", 0),
        (QueryExpansion, "k", -1),
        (QueryExpansion, "alpha", -0.5),
        (QueryExpansion, "alpha", float("nan")),
        (QueryExpansion, "alpha", float("inf")),
    ],
)
def test_rejects_settings_out_of_range(kind: type, name: str, value: Any):
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        kind(**{name: value})
