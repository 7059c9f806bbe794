"""Indexes of embeddings: exact and approximate search, additions, and indexes that do not fit."""

import numpy as np
import pytest
import torch

from benchmark import UserError
from benchmark.deployment import index as module
from benchmark.deployment.index import ImageIndex, build_index, require_index_kind
from benchmark.deployment.store import EmbeddingStore

KINDS = ["flat", "hnsw", "ivfpq"]
DIM = 16


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """`stored(vectors)` adds embeddings to a store, without images; returns the store as it is then."""
    folder = tmp_path / "store"
    (folder / "shards").mkdir(parents=True)
    (folder / "store.json").write_text(f'{{"format": 1, "folder": "/images", "weights": "{"0" * 64}", "dim": {DIM}}}')

    def add(vectors: np.ndarray) -> EmbeddingStore:
        for part in np.array_split(vectors, -(-len(vectors) // 300)):
            number = len(list((folder / "shards").iterdir()))
            start = len(EmbeddingStore(folder))
            names = [f"{start + row}.png" for row in range(len(part))]
            zeros = np.zeros(len(part), np.int64)
            np.savez(folder / "shards" / f"{number:08}.npz", vectors=part, names=names, sizes=zeros, times=zeros)
        return EmbeddingStore(folder)

    return add


def clustered(count: int, seed: int = 0) -> np.ndarray:
    """Return unit vectors around 40 centers."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(9).normal(size=(40, DIM))
    vectors = centers[generator.integers(40, size=count)] + 0.2 * generator.normal(size=(count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def nearest(vectors: np.ndarray, queries: np.ndarray, count: int) -> list[list[str]]:
    order = np.argsort(-queries @ vectors.T, axis=1)[:, :count]
    return [[f"{row}.png" for row in rows] for rows in order]


def names(results) -> list[list[str]]:
    return [[hit.path.name for hit in hits] for hits in results]


def closeness(found: list[list[str]], vectors: np.ndarray, queries: np.ndarray) -> float:
    """Mean cosine of the images that were found."""
    rows = [[int(name.split(".")[0]) for name in each] for each in found]
    return float(np.mean([vectors[row] @ query for row, query in zip(rows, queries, strict=True)]))


def recall(found: list[list[str]], expected: list[list[str]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected, strict=True)]))


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_images(stored, kind):
    vectors, queries = clustered(1500), clustered(20, seed=1)
    store = stored(vectors)
    build_index(store, kind)
    results = ImageIndex(store).search(torch.from_numpy(queries), 10)
    expected = nearest(vectors, queries, 10)
    if kind == "flat":
        assert names(results) == expected
        assert results[0][0].similarity == pytest.approx(float((queries[0] @ vectors.T).max()), abs=1e-6)
    elif kind == "hnsw":
        assert recall(names(results), expected) > 0.99
    else:  # the codes do not tell the members of a cluster apart
        assert closeness(names(results), vectors, queries) > closeness(expected, vectors, queries) - 0.05
    assert all(hits == sorted(hits, key=lambda hit: -hit.similarity) for hits in results)
    assert str(results[0][0].path).startswith("/images/")


def test_more_than_there_are(stored):
    store = stored(clustered(5))
    build_index(store, "flat")
    assert len(ImageIndex(store).search(torch.from_numpy(clustered(1)), 100)[0]) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_additions(stored, kind, monkeypatch):
    vectors, queries = clustered(1800), clustered(20, seed=1)
    build_index(stored(vectors[:1500]), kind)
    built = []
    faiss = module.import_faiss()
    monkeypatch.setattr(faiss, "index_factory", lambda *arguments: built.append(arguments))
    store = stored(vectors[1500:])
    with pytest.raises(UserError, match=r"the index in .* is older than its embeddings"):
        ImageIndex(store)
    build_index(store, kind)
    assert not built  # added to the index
    found = names(ImageIndex(store).search(torch.from_numpy(queries), 10))
    expected = nearest(vectors, queries, 10)
    if kind == "ivfpq":
        assert closeness(found, vectors, queries) > closeness(expected, vectors, queries) - 0.05
    else:
        assert recall(found, expected) > 0.99
    assert any(int(name.split(".")[0]) >= 1500 for hits in found for name in hits)


def test_product_quantization_is_trained_again_after_doubling(stored):
    build_index(stored(clustered(1500)), "ivfpq")
    store = stored(clustered(1700, seed=2))
    build_index(store, "ivfpq")
    assert module._describe(store).trained_on == 3200


def test_removal_builds_the_index_again(stored):
    vectors = clustered(900)
    store = stored(vectors)
    build_index(store, "flat")
    store.shards[0].path.unlink()
    store = EmbeddingStore(store.path)
    build_index(store, "flat")
    found = ImageIndex(store).search(torch.from_numpy(vectors[:1]), 900)[0]
    assert len(found) == 600 and found[0].similarity < 0.9999


def test_unchanged_index_is_kept(stored):
    store = stored(clustered(300))
    build_index(store, "flat")
    before = (store.path / "index.faiss").stat().st_mtime_ns
    build_index(EmbeddingStore(store.path), "flat")
    assert (store.path / "index.faiss").stat().st_mtime_ns == before
    build_index(store, "hnsw")
    assert module._describe(store).kind == "hnsw"


class TestRefused:
    def test_too_few_images(self, stored):
        with pytest.raises(UserError, match="--index ivfpq: a gallery of 50 vectors is too small"):
            build_index(stored(clustered(50)), "ivfpq")

    def test_no_index(self, stored):
        with pytest.raises(UserError, match="has no index: repeat `benchmark embed`"):
            ImageIndex(stored(clustered(5)))

    def test_index_of_other_embeddings(self, stored):
        store = stored(clustered(300))
        build_index(store, "flat")
        faiss = module.import_faiss()
        faiss.write_index(faiss.IndexFlatIP(DIM), str(store.path / "index.faiss"))
        with pytest.raises(UserError, match="is not the index of these embeddings"):
            ImageIndex(store)
        (store.path / "index.faiss").write_bytes(b"IxFI")
        with pytest.raises(UserError, match=r"index\.faiss is missing or damaged"):
            ImageIndex(store)

    @pytest.mark.parametrize("text", ["{", '{"kind": "flat"}', '{"kind": "tree", "parameters": ""}'])
    def test_damaged_description(self, stored, text):
        store = stored(clustered(5))
        (store.path / "index.json").write_text(text)
        with pytest.raises(UserError, match=r"index\.json: "):
            ImageIndex(store)

    def test_unknown_kind(self):
        with pytest.raises(UserError, match="--index hnws: choose flat, hnsw, ivfpq; did you mean 'hnsw'"):
            require_index_kind("hnws")

    def test_without_faiss(self, monkeypatch):
        def missing():
            raise ImportError("approximate search needs faiss: pip install it")

        monkeypatch.setattr(module, "import_faiss", missing)
        with pytest.raises(UserError, match="--index flat: approximate search needs faiss"):
            require_index_kind("flat")
