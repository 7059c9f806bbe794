"""Formats of stored embeddings: their names, their sizes, and the scores with naive versions of each of them."""

import re

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmark.retrieval import EmbeddingFormat, Embeddings, Protocol, clustering_scores, evaluate
from benchmark.retrieval.embedding_format import FLOAT32

ALL = ["float32", "float16", "int8", "binary", "pca:9", "pq:8x5", "matryoshka:7"]
NO_CAMERAS = Protocol(camera_rule=False)
UNIT_ROWS = arrays(np.int64, st.tuples(st.integers(1, 12), st.just(8)), elements=st.integers(-50, 50)).map(
    lambda rows: (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)).astype(np.float32)
)
"""Vectors of unit length, or zero."""


@pytest.fixture(scope="module")
def lists(clustered) -> tuple[Embeddings, Embeddings, np.ndarray]:
    """Queries, gallery, and vectors of training images."""
    return clustered(60), clustered(300, seed=1), clustered(200, seed=2).vectors.numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def naive(name: str, query: np.ndarray, gallery: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors whose inner products, after normalization, are the scores of a format."""
    query, gallery, training = (unit(vectors.astype(np.float64)) for vectors in (query, gallery, training))
    kind, _, numbers = name.partition(":")
    if kind == "float16":
        return query, gallery.astype(np.float16).astype(np.float64)
    if kind == "int8":
        low, high = training.min(0), training.max(0)
        codes = np.clip(np.rint((gallery - low) / (high - low) * 255), 0, 255)
        return query, low + codes / 255 * (high - low)
    if kind == "matryoshka":
        return query[:, : int(numbers)], gallery[:, : int(numbers)]
    if kind == "pca":
        mean = training.mean(0)
        axes = np.linalg.svd(training - mean)[2][: int(numbers)]
        return (query - mean) @ axes.T, (gallery - mean) @ axes.T
    if kind == "pq":
        parts, bits = map(int, numbers.split("x"))
        size = training.shape[1] // parts
        found = []
        for part in range(parts):
            columns = slice(part * size, (part + 1) * size)
            kmeans = faiss.Kmeans(size, 2**bits, niter=25, min_points_per_centroid=1)
            kmeans.train(np.ascontiguousarray(training[:, columns], dtype=np.float32))
            distances = ((gallery[:, None, columns] - kmeans.centroids[None]) ** 2).sum(2)
            found.append(kmeans.centroids[distances.argmin(1)])
        return query, np.concatenate(found, axis=1)
    return query, gallery


def average_precisions(scores: np.ndarray, query: Embeddings, gallery: Embeddings) -> list[float]:
    """Rank by descending scores, negatives first where scores are equal."""
    result = []
    for row, identity in zip(scores, query.identities.tolist(), strict=True):
        matches = gallery.identities.numpy() == identity
        order = np.lexsort((matches, -row))
        ranks = np.flatnonzero(matches[order]) + 1
        result.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else np.nan)
    return result


class TestScores:
    @pytest.mark.parametrize("name", ["float32", "float16", "int8", "pca:9", "pq:8x5", "matryoshka:7"])
    def test_equal_those_of_naive_vectors(self, lists, name):
        query, gallery, training = lists
        codec = EmbeddingFormat.parse(name).fit(24, training)
        scores = evaluate(codec.query(query), codec.gallery(gallery), NO_CAMERAS)
        first, second = naive(name, query.vectors.numpy(), gallery.vectors.numpy(), training)
        expected = average_precisions(unit(first) @ unit(second).T, query, gallery)
        # k-means may round a centroid, or PCA a component, differently.
        np.testing.assert_allclose(scores.average_precision, expected, atol=5e-3)
        assert scores.mAP == pytest.approx(np.nanmean(expected), abs=1e-4)

    @pytest.mark.parametrize("dim", [1, 5, 24, 300, 2048])
    def test_binary_ranks_by_the_hamming_distance(self, clustered, dim):
        """Many distances are equal, and negatives rank before positives there."""
        query, gallery = clustered(50, dim), clustered(200, dim, seed=1)
        codec = EmbeddingFormat.parse("binary").fit(dim)
        scores = evaluate(codec.query(query), codec.gallery(gallery), NO_CAMERAS)
        signs = [embeddings.vectors.numpy() > 0 for embeddings in (query, gallery)]
        hamming = (signs[0][:, None] != signs[1][None]).sum(2)
        np.testing.assert_allclose(scores.average_precision, average_precisions(-hamming, query, gallery), atol=1e-12)

    def test_pca_of_all_dimensions_keeps_distances(self, lists):
        query, gallery, training = lists
        codec = EmbeddingFormat.parse("pca:24").fit(24, training)
        first, second = codec.query(query).vectors, codec.gallery(gallery).vectors
        expected = torch.cdist(query.vectors * query.scale[:, None], gallery.vectors * gallery.scale[:, None])
        torch.testing.assert_close(torch.cdist(first, second), expected, atol=1e-5, rtol=0)

    def test_whole_matryoshka_equals_float32(self, lists):
        query, gallery, _ = lists
        codec = EmbeddingFormat.parse("matryoshka:24").fit(24)
        assert evaluate(codec.query(query), codec.gallery(gallery), NO_CAMERAS).mAP == pytest.approx(
            evaluate(query, gallery, NO_CAMERAS).mAP, abs=1e-6
        )

    @pytest.mark.parametrize("name", ALL)
    def test_queries_in_the_gallery(self, clustered, name):
        """Every query is removed from its own ranking, though it is stored in another format."""
        birds, protocol = clustered(150), Protocol(camera_rule=False, query_in_gallery=True)
        codec = EmbeddingFormat.parse(name).fit(24, clustered(200, seed=2).vectors)
        scores = evaluate(codec.query(birds), codec.gallery(birds), protocol)
        identities = birds.identities
        expected = (identities[:, None] == identities[None]).sum(1) - 1
        assert torch.equal(scores.positives, expected) and 0 < scores.mAP < 1

    @pytest.mark.parametrize("name", ALL)
    def test_labels_and_device_are_kept(self, lists, name):
        query, gallery, training = lists
        codec = EmbeddingFormat.parse(name).fit(24, training)
        for before, after in ((query, codec.query(query)), (gallery, codec.gallery(gallery))):
            assert torch.equal(before.identities, after.identities) and torch.equal(before.cameras, after.cameras)
            assert after.vectors.dtype == torch.float32 and after.vectors.device == before.vectors.device

    @pytest.mark.parametrize("name", ALL)
    def test_length_of_vectors_does_not_matter(self, lists, name):
        query, gallery, training = lists
        longer = Embeddings(gallery.vectors * 37, gallery.identities, gallery.cameras)
        codec, other = (EmbeddingFormat.parse(name).fit(24, vectors) for vectors in (training, training * 5))
        first = evaluate(codec.query(query), codec.gallery(gallery), NO_CAMERAS)
        assert evaluate(other.query(query), other.gallery(longer), NO_CAMERAS).mAP == pytest.approx(first.mAP, abs=2e-3)


class TestSize:
    @pytest.mark.parametrize(
        ("name", "dim", "size"),
        [
            *[("float32", 24, 96), ("float16", 24, 48), ("int8", 24, 24), ("binary", 24, 3), ("binary", 25, 4)],
            *[("pca:9", 24, 36), ("matryoshka:7", 24, 28), ("pq:8x5", 24, 5), ("pq:8x8", 24, 8), ("pq:3x3", 24, 2)],
        ],
    )
    def test_is_that_of_the_codes(self, clustered, name, dim, size):
        embedding = EmbeddingFormat.parse(name)
        vectors = unit(clustered(300, dim).vectors.numpy())
        assert embedding.bytes_per_image(dim) == size
        assert embedding.fit(dim, vectors).encode(vectors).nbytes == 300 * size


class TestRoundTrip:
    @given(UNIT_ROWS)
    def test_float16(self, vectors):
        codec = EmbeddingFormat.parse("float16").fit(8)
        assert np.abs(codec.decode(codec.encode(vectors)) - vectors).max() <= 2**-11

    @given(UNIT_ROWS, UNIT_ROWS)
    def test_int8_is_off_by_half_a_level_within_the_range(self, training, vectors):
        codec = EmbeddingFormat.parse("int8").fit(8, training)
        low, high = training.min(0), training.max(0)
        within = vectors.clip(low, high)
        decoded = codec.decode(codec.encode(vectors))
        assert (np.abs(decoded - within) <= (high - low) / 510 + 1e-6).all()

    @given(UNIT_ROWS)
    def test_binary_keeps_signs(self, vectors):
        codec = EmbeddingFormat.parse("binary").fit(8)
        np.testing.assert_array_equal(codec.decode(codec.encode(vectors)) > 0, vectors > 0)

    @settings(deadline=None, max_examples=20)
    @given(st.integers(1, 24))
    def test_error_of_pca_is_the_rest_of_the_variance(self, size):
        generator = np.random.default_rng(size)
        training = unit(generator.normal(size=(80, 24)) * np.arange(1, 25)).astype(np.float32)
        codec = EmbeddingFormat.parse(f"pca:{size}").fit(24, training)
        kept = (codec.encode(training) ** 2).sum()
        variances = np.linalg.svd(training - training.mean(0), compute_uv=False) ** 2
        assert kept == pytest.approx(variances[:size].sum(), rel=1e-4)

    def test_pq_takes_the_nearest_centroid_of_every_part(self, lists):
        _, gallery, training = lists
        codec = EmbeddingFormat.parse("pq:8x5").fit(24, training)
        vectors = unit(gallery.vectors.numpy())
        decoded = codec.decode(codec.encode(vectors))
        centroids = faiss.vector_to_array(codec.quantizer.centroids).reshape(8, 32, 3)
        for part in range(8):
            columns = slice(3 * part, 3 * part + 3)
            distances = ((vectors[:, None, columns] - centroids[part][None]) ** 2).sum(2)
            np.testing.assert_allclose(((decoded - vectors)[:, columns] ** 2).sum(1), distances.min(1), atol=1e-6)


class TestNames:
    @pytest.mark.parametrize("name", [*ALL, "pq:64x16", "pca:1"])
    def test_are_read_and_written(self, name):
        embedding = EmbeddingFormat.parse(name)
        assert str(embedding) == name and EmbeddingFormat.parse(str(embedding)) == embedding
        assert len({embedding, EmbeddingFormat.parse(name)}) == 1

    def test_default(self):
        assert str(FLOAT32) == "float32" and not FLOAT32.learned

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("", "should be one of float32, float16, int8, binary, pca:64, pq:32x8, matryoshka:64"),
            ("int9", "(did you mean int8?)"),
            ("Binary", "(did you mean binary?)"),
            ("matrioshka:64", "(did you mean matryoshka:64?)"),
            ("opq:32x8", "(did you mean pq:32x8?)"),
            ("pca", "should be written like pca:64"),
            ("pca:", "should be written like pca:64"),
            ("pca:64x8", "should be written like pca:64"),
            ("pca:0", "should be written like pca:64"),
            ("pca:-1", "should be written like pca:64"),
            ("pca:064", "should be written like pca:64"),
            ("pca:65537", "with a number from 1 to 65536"),
            ("pca:99999999999999", "should be written like pca:64"),
            ("int8:4", "should be written like int8"),
            ("float16:", "should be written like float16"),
            ("pq:32", "should be written like pq:32x8"),
            ("pq:32x0", "should be written like pq:32x8"),
            ("pq:32x17", "with 1 to 16 bits per part"),
            ("matryoshka:6.5", "should be written like matryoshka:64"),
        ],
    )
    def test_mistakes(self, name, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            EmbeddingFormat.parse(name)

    @given(st.text(alphabet="pqcabinryflot0123456789:x- ", max_size=12))
    def test_any_text_is_a_format_or_refused(self, text):
        try:
            embedding = EmbeddingFormat.parse(text)
        except ValueError as error:
            assert "should be" in str(error)
        else:
            assert str(embedding) == text


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "training", "message"),
        [
            ("pca:25", 100, "embeddings have only 24 values: use pca:24 or less"),
            ("matryoshka:25", 0, "embeddings have only 24 values: use matryoshka:24 or less"),
            ("pq:16x8", 300, "cannot divide embeddings of 24 values into 16 equal parts: use pq:12x8"),
            ("pq:48x8", 300, "use pq:24x8"),
            ("pca:9", 8, "takes at least 9 training images to learn, and there are 8"),
            ("pq:8x8", 255, "takes at least 256 training images to learn, and there are 255"),
        ],
    )
    def test_impossible_format(self, name, training, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            EmbeddingFormat.parse(name).fit(24, np.eye(24, dtype=np.float32)[np.arange(training) % 24])

    @pytest.mark.parametrize(
        ("training", "message"),
        [
            (None, "needs embeddings of training images"),
            (np.ones((5, 23), np.float32), "the training embeddings have 23 values, and the others 24"),
            (np.full((5, 24), np.nan, np.float32), "NaN"),
            (np.ones(24, np.float32), "vectors must be"),
        ],
    )
    def test_training_embeddings(self, training, message):
        with pytest.raises(ValueError, match=message):
            EmbeddingFormat.parse("int8").fit(24, training)

    def test_embeddings_of_another_size(self, lists):
        with pytest.raises(ValueError, match="have 24 values, but float16 was fitted to 8"):
            EmbeddingFormat.parse("float16").fit(8).query(lists[0])


class TestClustering:
    def test_perfect_clusters(self):
        identities = torch.arange(40) % 8
        gallery = Embeddings(torch.eye(8)[identities], identities)
        scores = clustering_scores(gallery, NO_CAMERAS)
        assert (scores.images, scores.clusters) == (40, 8)
        for score in (scores.NMI, scores.AMI):
            assert score == pytest.approx(1)

    def test_random_embeddings(self):
        generator = torch.Generator().manual_seed(0)
        gallery = Embeddings(torch.randn(400, 8, generator=generator), torch.arange(400) % 20)
        scores = clustering_scores(gallery, NO_CAMERAS)
        assert abs(scores.AMI) < 0.05 < scores.NMI

    def test_junk_and_distractors_are_left_out(self):
        identities = torch.arange(40) % 8
        gallery = Embeddings(torch.eye(8)[identities], identities)
        scores = clustering_scores(gallery, Protocol(camera_rule=False, junk=(0,), distractors=(7,)))
        assert (scores.images, scores.clusters) == (30, 6)
        with pytest.raises(ValueError, match="all gallery images are junk or distractors"):
            clustering_scores(gallery, Protocol(camera_rule=False, junk=tuple(range(8))))
