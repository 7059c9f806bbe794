"""Encoders of the formats in which embeddings are stored. NumPy computes them, on the CPU."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.retrieval import _chunks
from benchmark.retrieval.approximate import import_faiss
from benchmark.retrieval.embedding_format import EmbeddingFormat
from benchmark.retrieval.embeddings import Embeddings

Floats = NDArray[np.float32]
_LEVELS = 255
"""Largest code of `int8`."""
_KMEANS_ITERATIONS = 25


def fit(embedding: EmbeddingFormat, dim: int, training: Any = None) -> "Codec":
    """Return the encoder of a format; see `EmbeddingFormat.fit`."""
    embedding.require(dim)
    vectors = None
    if embedding.learned:
        if training is None:
            raise ValueError("needs embeddings of training images, from which the format is learned")
        listed = Embeddings(training, torch.zeros(len(training), dtype=torch.int64, device=_device(training)))
        if listed.vectors.shape[1] != dim:
            raise ValueError(f"the training embeddings have {listed.vectors.shape[1]} values, and the others {dim}")
        embedding.require_training(len(listed))
        vectors = _unit(listed.vectors, listed.scale)
    return _CODECS[embedding.kind].fit(embedding, dim, vectors)


class Codec(ABC):
    """Encodes embeddings in a format.

    Args:
        embedding: The format.
        dim: Size of the embeddings.
    """

    def __init__(self, embedding: EmbeddingFormat, dim: int) -> None:
        self.format = embedding
        self.dim = dim

    @classmethod
    def fit(cls, embedding: EmbeddingFormat, dim: int, training: Floats | None) -> Self:
        """Learn the format from (N, dim) training vectors of unit length; None if nothing is learned."""
        return cls(embedding, dim)

    @abstractmethod
    def encode(self, vectors: Floats) -> NDArray[Any]:
        """Return the (N, ...) codes of (N, dim) vectors of unit length, `format.bytes_per_image` bytes each."""

    @abstractmethod
    def decode(self, codes: NDArray[Any]) -> Floats:
        """Return the (N, D) vectors that are compared with the query. Need not be normalized."""

    def project(self, queries: Floats) -> Floats:
        """Return the (N, D) vectors of queries, given as (N, dim) vectors of unit length."""
        return queries

    def query(self, embeddings: Embeddings) -> Embeddings:
        """Return queries as they are compared with a gallery in this format."""
        return self._map(embeddings, self.project)

    def gallery(self, embeddings: Embeddings) -> Embeddings:
        """Return a gallery as it is reconstructed from this format, in float32 on the device of the embeddings."""
        return self._map(embeddings, lambda vectors: self.decode(self.encode(vectors)))

    def _map(self, embeddings: Embeddings, function: Any) -> Embeddings:
        vectors = embeddings.vectors
        if vectors.shape[1] != self.dim:
            raise ValueError(
                f"the embeddings have {vectors.shape[1]} values, but {self.format} was fitted to {self.dim}"
            )
        parts = [
            torch.from_numpy(function(_unit(vectors[rows], embeddings.scale[rows])))
            for rows in _chunks.chunks(len(vectors), 4 * self.dim)
        ]
        return replace(embeddings, vectors=torch.cat(parts).to(vectors.device))


class _Float(Codec):
    """float32 and float16, and the first values of `matryoshka`."""

    def encode(self, vectors: Floats) -> NDArray[Any]:
        return self.project(vectors).astype(np.float16 if self.format.kind == "float16" else np.float32)

    def decode(self, codes: NDArray[Any]) -> Floats:
        return codes.astype(np.float32)

    def project(self, queries: Floats) -> Floats:
        return np.ascontiguousarray(queries[:, : self.format.size or self.dim])


class _Int8(Codec):
    def __init__(self, embedding: EmbeddingFormat, dim: int, low: Floats, high: Floats) -> None:
        super().__init__(embedding, dim)
        self.low = low
        self.step = (high - low) / np.float32(_LEVELS)

    @classmethod
    def fit(cls, embedding: EmbeddingFormat, dim: int, training: Floats | None) -> Self:
        assert training is not None
        return cls(embedding, dim, training.min(axis=0), training.max(axis=0))

    def encode(self, vectors: Floats) -> NDArray[Any]:
        # A dimension without a range has one level.
        levels = np.divide(vectors - self.low, self.step, out=np.zeros_like(vectors), where=self.step > 0)
        return levels.round().clip(0, _LEVELS).astype(np.uint8)

    def decode(self, codes: NDArray[Any]) -> Floats:
        return self.low + self.step * codes.astype(np.float32)


class _Binary(Codec):
    """Signs as vectors of -1 and 1, whose cosine is 1 - 2 x Hamming distance / dim."""

    def encode(self, vectors: Floats) -> NDArray[Any]:
        return np.packbits(vectors > 0, axis=1)

    def decode(self, codes: NDArray[Any]) -> Floats:
        return np.unpackbits(codes, axis=1, count=self.dim).astype(np.float32) * 2 - 1

    def project(self, queries: Floats) -> Floats:
        return self.decode(self.encode(queries))


class _Pca(Codec):
    def __init__(self, embedding: EmbeddingFormat, dim: int, mean: Floats, components: Floats) -> None:
        super().__init__(embedding, dim)
        self.mean = mean
        self.components = components

    @classmethod
    def fit(cls, embedding: EmbeddingFormat, dim: int, training: Floats | None) -> Self:
        from sklearn.decomposition import PCA  # slow to import

        pca = PCA(embedding.size, svd_solver="covariance_eigh").fit(training)
        return cls(embedding, dim, pca.mean_.astype(np.float32), pca.components_.astype(np.float32))

    def encode(self, vectors: Floats) -> NDArray[Any]:
        return self.project(vectors)

    def decode(self, codes: NDArray[Any]) -> Floats:
        return codes

    def project(self, queries: Floats) -> Floats:
        return np.matmul(queries - self.mean, self.components.T, dtype=np.float32)


class _Pq(Codec):
    def __init__(self, embedding: EmbeddingFormat, dim: int, quantizer: Any) -> None:
        super().__init__(embedding, dim)
        self.quantizer = quantizer
        """A trained `faiss.ProductQuantizer`."""

    @classmethod
    def fit(cls, embedding: EmbeddingFormat, dim: int, training: Floats | None) -> Self:
        quantizer = import_faiss().ProductQuantizer(dim, embedding.size, embedding.bits)
        quantizer.cp.niter = _KMEANS_ITERATIONS
        quantizer.cp.min_points_per_centroid = 1  # it warns of fewer on the standard error, without saying what of
        quantizer.train(training)
        return cls(embedding, dim, quantizer)

    def encode(self, vectors: Floats) -> NDArray[Any]:
        codes: NDArray[Any] = self.quantizer.compute_codes(vectors)
        return codes

    def decode(self, codes: NDArray[Any]) -> Floats:
        vectors: Floats = self.quantizer.decode(codes)
        return vectors


_CODECS: dict[str, type[Codec]] = {
    "float32": _Float,
    "float16": _Float,
    "matryoshka": _Float,
    "int8": _Int8,
    "binary": _Binary,
    "pca": _Pca,
    "pq": _Pq,
}


def _unit(vectors: Tensor, scale: Tensor) -> Floats:
    """Return (N, D) vectors in float32 on the CPU, normalized by their (N,) scale."""
    normalized: Floats = (vectors.float() * scale[:, None]).cpu().numpy()
    return normalized


def _device(values: Any) -> torch.device | None:
    return values.device if isinstance(values, Tensor) else None
