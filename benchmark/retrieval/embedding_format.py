"""Formats in which the embeddings of a gallery are stored, and their size."""

# The encoders import torch, NumPy and faiss, which the settings of a recipe do not need.

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from benchmark.errors import closest

if TYPE_CHECKING:
    from benchmark.retrieval._codecs import Codec

_EXAMPLES: Mapping[str, str] = {
    "float32": "float32",
    "float16": "float16",
    "int8": "int8",
    "binary": "binary",
    "pca": "pca:64",
    "pq": "pq:32x8",
    "matryoshka": "matryoshka:64",
}
"""Every kind of format, as it is written."""
_LARGEST = 65_536
_MAX_BITS = 16


@dataclass(frozen=True, slots=True)
class EmbeddingFormat:
    """How the embeddings of gallery images are stored. `parse` reads it from text, and `str` writes it.

    Embeddings are normalized first. In all formats but `binary`, they are compared with the query by the cosine of
    what can be reconstructed from their bytes. The query itself is not stored, and keeps its 32 bits per value.

    - `float32`, `float16`: floating-point values.
    - `int8`: one of 256 equidistant levels per value, between the least and the largest value of that dimension among
      the training images.
    - `binary`: the sign of each value, of gallery and query. They are compared by the Hamming distance.
    - `pca:N`: the first N principal components of the training images, in float32, without whitening.
    - `pq:NxB`: product quantization. N equal parts of the embedding are each replaced by one of 2^B centroids, which
      k-means finds on the training images. Source: Jégou, Douze, Schmid, "Product Quantization for Nearest Neighbor
      Search", TPAMI 2011, asymmetric distance.
    - `matryoshka:N`: the first N values, in float32. Meant for networks that were trained for it: Kusupati et al.,
      "Matryoshka Representation Learning", NeurIPS 2022.

    Raises:
        ValueError: There is no such format.
    """

    kind: str = "float32"
    size: int = 0
    """Number of dimensions of `pca` and `matryoshka`, number of parts of `pq`, else 0."""
    bits: int = 0
    """Bits per part of `pq`, else 0."""

    def __post_init__(self) -> None:
        if self.kind not in _EXAMPLES:
            guess = closest(self.kind, _EXAMPLES)
            question = f" (did you mean {_EXAMPLES[guess]}?)" if guess else ""
            raise ValueError(f"should be one of {', '.join(_EXAMPLES.values())}{question}")
        example = _EXAMPLES[self.kind]
        if not 1 <= self.size <= _LARGEST if ":" in example else self.size:
            raise ValueError(f"should be written like {example}, with a number from 1 to {_LARGEST}")
        if not 1 <= self.bits <= _MAX_BITS if self.kind == "pq" else self.bits:
            raise ValueError(f"should be written like {example}, with 1 to {_MAX_BITS} bits per part")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the format that is written like "int8", "pca:64" or "pq:32x8".

        Raises:
            ValueError: There is no such format. The message is a phrase, such as "should be one of ...".
        """
        kind, _, numbers = text.partition(":")
        example = _EXAMPLES.get(kind, "")
        pattern = re.sub("[0-9]+", "([1-9][0-9]{0,9})", example.partition(":")[2])
        match = re.fullmatch(pattern, numbers)
        if example and (match is None or (":" in text) != (":" in example)):
            raise ValueError(f"should be written like {example}")
        return cls(kind, *map(int, match.groups() if match else ()))

    def __str__(self) -> str:
        return self.kind + (f":{self.size}" if self.size else "") + (f"x{self.bits}" if self.bits else "")

    @property
    def learned(self) -> bool:
        """Whether training images determine the format."""
        return self.kind in ("int8", "pca", "pq")

    def require(self, dim: int) -> None:
        """Check that the format can store embeddings of `dim` values.

        Raises:
            ValueError: It cannot. The message is a phrase, such as "cannot divide ...".
        """
        if self.kind == "pq" and dim % self.size:
            parts = max(number for number in range(1, min(self.size, dim) + 1) if dim % number == 0)
            raise ValueError(
                f"cannot divide embeddings of {dim} values into {self.size} equal parts: use pq:{parts}x{self.bits}"
            )
        if self.size > dim:
            raise ValueError(f"embeddings have only {dim} values: use {self.kind}:{dim} or less")

    def require_training(self, images: int) -> None:
        """Check that the format can be learned from this number of training images.

        Raises:
            ValueError: There are too few. The message is a phrase.
        """
        least = {"int8": 1, "pca": self.size, "pq": 2**self.bits}.get(self.kind, 0)
        if images < least:
            raise ValueError(
                f"takes at least {least} training images to learn, and there are {images}: use a smaller number, or a "
                "format that is not learned, such as float16"
            )

    def bytes_per_image(self, dim: int) -> int:
        """Return the bytes of one stored embedding of `dim` values.

        What all images share (ranges, components, centroids) is not counted.
        """
        bits = {
            "float32": 32 * dim,
            "float16": 16 * dim,
            "int8": 8 * dim,
            "binary": dim,
            "pq": self.size * self.bits,
        }.get(self.kind, 32 * self.size)
        return -(-bits // 8)

    def fit(self, dim: int, training: Any = None) -> "Codec":
        """Learn the format, and return what encodes embeddings.

        Args:
            dim: Size of an embedding.
            training: (N, dim) embeddings of training images, a tensor or an array. They must not be those of the
                queries or the gallery, to which the format would otherwise be fitted. Not needed unless `learned`.

        Raises:
            ImportError: `pq` needs faiss, which is not installed.
            ValueError: The format cannot store such embeddings, or the training embeddings are missing, too few, or not
                valid.
        """
        from benchmark.retrieval._codecs import fit

        return fit(self, dim, training)


FLOAT32 = EmbeddingFormat()
"""The default: embeddings as the network returns them."""
