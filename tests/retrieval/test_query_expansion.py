"""Query expansion agrees with a loop over queries."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from benchmark.retrieval.reranking import QueryExpansion

SETTINGS = st.builds(QueryExpansion, st.integers(1, 14), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
CHUNK_BYTES = st.sampled_from([1, 500, 3000, 10**9])


def vectors(count: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator) * torch.rand(count, 1, generator=generator).add(0.1)


def unit(rows: torch.Tensor) -> np.ndarray:
    array = rows.double().numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def naive(query: torch.Tensor, gallery: torch.Tensor, settings: QueryExpansion, exclude_self: bool) -> np.ndarray:
    """The sums of the unit vectors, before they are normalised."""
    queries, images = unit(query), unit(gallery)
    sums = []
    for i, vector in enumerate(queries):
        cosines = [(vector @ image, j) for j, image in enumerate(images) if not (exclude_self and i == j)]
        total = vector.copy()
        for cosine, j in sorted(cosines, reverse=True)[: settings.k]:
            total += images[j] if settings.alpha == 0 else max(cosine, 0) ** settings.alpha * images[j]
        sums.append(total)
    return np.stack(sums)


def settled(query: torch.Tensor, gallery: torch.Tensor) -> bool:
    """Whether the order of the cosines is the same in float32."""
    return bool((np.diff(np.sort(unit(query) @ unit(gallery).T, axis=1), axis=1) > 1e-5).all())


@hypothesis_settings(deadline=None)
@given(st.data(), SETTINGS, st.integers(1, 12), st.booleans(), CHUNK_BYTES, st.integers(0, 2**32))
def test_loop_over_queries(data, settings: QueryExpansion, count: int, one_list: bool, chunk_bytes: int, seed: int):
    query = vectors(count, 4, seed)
    gallery = query if one_list else vectors(data.draw(st.integers(1, 12)), 4, seed + 1)
    exclude_self = one_list and data.draw(st.booleans())
    sums = naive(query, gallery, settings, exclude_self)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    assume(settled(query, gallery) and lengths.min() > 0.1)
    with mock.patch("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes):
        expanded = settings.expand(query, gallery, torch.arange(len(query)) if exclude_self else None)
    assert expanded.dtype == torch.float32
    # The root of a cosine near 0 magnifies its rounding.
    np.testing.assert_allclose(expanded, sums / lengths, rtol=0, atol=1e-5 if settings.alpha in (0, 1, 3) else 2e-3)


@hypothesis_settings(deadline=None)
@given(SETTINGS, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_the_order_of_the_gallery_does_not_matter(settings: QueryExpansion, seed: int, random):
    query, gallery = vectors(5, 8, seed), vectors(12, 8, seed + 1)
    assume(settled(query, gallery) and np.linalg.norm(naive(query, gallery, settings, False), axis=1).min() > 0.1)
    order = list(range(len(gallery)))
    random.shuffle(order)
    expected = settings.expand(query, gallery)
    torch.testing.assert_close(settings.expand(query, gallery[order]), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("chunk_bytes", [1, 10_000, 100_000])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_chunks_do_not_matter(chunk_bytes: int, exclude_self: bool):
    """Nor does it matter which of several equal images is among the nearest."""
    images = vectors(60, 16, 0)[torch.randint(60, (120,), generator=torch.Generator().manual_seed(1))]
    itself = torch.arange(len(images)) if exclude_self else None
    expected = QueryExpansion(alpha=1.0).expand(images, images, itself)
    with mock.patch("benchmark.retrieval._chunks.CHUNK_BYTES", chunk_bytes):
        expanded = QueryExpansion(alpha=1.0).expand(images, images, itself)
    torch.testing.assert_close(expanded, expected, rtol=0, atol=2e-6)


def test_a_query_alone_in_its_list_stays_as_it_is():
    query = vectors(1, 8, 0)
    expected = torch.nn.functional.normalize(query, dim=1)
    torch.testing.assert_close(QueryExpansion().expand(query, query, torch.arange(len(query))), expected)
    torch.testing.assert_close(QueryExpansion(alpha=2.0).expand(query, -query), expected)


def test_a_query_that_finds_itself_counts_twice():
    images = torch.eye(3)[:2] + 0.1
    first = torch.nn.functional.normalize(images, dim=1)
    torch.testing.assert_close(QueryExpansion(k=1).expand(images, images), first)
    mean = torch.nn.functional.normalize(first.sum(dim=0, keepdim=True), dim=1).expand(2, -1)
    torch.testing.assert_close(QueryExpansion(k=1).expand(images, images, torch.arange(len(images))), mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_point_type_is_taken_and_left_as_it_is(dtype: torch.dtype):
    query, gallery = vectors(5, 8, 0).to(dtype), vectors(20, 8, 1).to(dtype)
    before = query.clone(), gallery.clone()
    expanded = QueryExpansion(3).expand(query.requires_grad_(), gallery)
    assert expanded.dtype == torch.float32 and not expanded.requires_grad
    assert torch.equal(query, before[0]) and torch.equal(gallery, before[1])
    torch.testing.assert_close(expanded, QueryExpansion(3).expand(before[0].float(), before[1].float()))


@pytest.mark.parametrize(
    ("name", "value"),
    [("k", 0), ("k", -1), ("alpha", -0.5), ("alpha", float("nan")), ("alpha", float("inf"))],
)
def test_settings_out_of_range_are_refused(name: str, value: Any):
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        QueryExpansion(**{name: value})


@pytest.mark.parametrize("wrong", [torch.ones(4), torch.ones(4, 3, 2), torch.ones(0, 3), torch.ones(4, 3).long()])
def test_vectors_of_another_shape_or_type_are_refused(wrong: torch.Tensor):
    with pytest.raises(ValueError, match=r"query must be \(N, D\) floating point"):
        QueryExpansion().expand(wrong, torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"gallery must be \(N, D\) floating point"):
        QueryExpansion().expand(torch.ones(4, 3), wrong)


def test_vectors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="differ in size: 3 and 4"):
        QueryExpansion().expand(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="the query is on cpu, the gallery on meta"):
        QueryExpansion().expand(torch.ones(2, 3), torch.ones(2, 3, device="meta"))
