"""Search for similar images: a faiss index of the embeddings of a store."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from benchmark.deployment.store import EmbeddingStore
from benchmark.errors import UserError, nearest
from benchmark.results.fields import Count, FrozenModel, explain
from benchmark.retrieval.approximate import INDEXES, choose_index, import_faiss, trained_index, training_step
from benchmark.utils import strict_json
from benchmark.utils.atomic import atomic_path, write_text

INDEX_FILE, DESCRIPTION_FILE = "index.faiss", "index.json"
_GROWTH = 2
"""Growth since the training of a product quantization after which it is trained again."""


class Description(FrozenModel):
    """An index: its kind, the number of images when it was trained, and the files of embeddings in it."""

    kind: Literal["flat", "hnsw", "ivfpq"]
    parameters: Annotated[str, Field(max_length=100)]
    trained_on: Count
    shards: list[Annotated[str, Field(max_length=100)]]


class Hit(NamedTuple):
    """An image that was found."""

    path: Path
    similarity: float
    """Cosine of the embeddings; approximate for product quantization."""


class ImageIndex:
    """A faiss index of a store.

    Args:
        store: The embeddings.

    Raises:
        UserError: There is no index, or it is damaged or older than the embeddings.
    """

    def __init__(self, store: EmbeddingStore) -> None:
        self.store = store
        description = _describe(store)
        if description is None:
            raise UserError(f"{store.path} has no index: repeat `benchmark embed` with --output {store.path}")
        if description.shards != [shard.version for shard in store.shards]:
            raise UserError(f"the index in {store.path} is older than its embeddings: repeat `benchmark embed`")
        require_index_kind(description.kind)
        self._index = _load(store)
        if self._index.ntotal != len(store) or self._index.d != store.description.dim:
            raise UserError(f"{store.path / INDEX_FILE} is not the index of these embeddings: repeat `benchmark embed`")
        if description.parameters:
            import_faiss().ParameterSpace().set_index_parameters(self._index, description.parameters)

    def search(self, embeddings: torch.Tensor, count: int) -> list[list[Hit]]:
        """Return the images that are most similar to each of (N, dim) embeddings of unit length, best first."""
        similarities, positions = self._index.search(embeddings.numpy(), min(count, len(self.store)))
        results = []
        for row, places in zip(similarities.tolist(), positions.tolist(), strict=True):
            found = [(place, value) for place, value in zip(places, row, strict=True) if place >= 0]
            paths = self.store.paths([place for place, _ in found])
            results.append([Hit(path, value) for path, (_, value) in zip(paths, found, strict=True)])
        return results


def require_index_kind(kind: str) -> None:
    """Check that there is an index of this kind, and that faiss is installed.

    Raises:
        UserError: There is not, or it is not.
    """
    if kind not in INDEXES:
        raise UserError(f"--index {kind}: choose {', '.join(INDEXES)}{nearest(kind, INDEXES)}")
    try:
        import_faiss()
    except ImportError as error:
        raise UserError(f"--index {kind}: {error}") from error


def build_index(store: EmbeddingStore, kind: str) -> None:
    """Build the index of a store, or bring it up to date.

    Embeddings are added to an index of the same kind. It is built again if embeddings were removed, or if the store has
    twice as many as when a product quantization was trained.

    Args:
        store: The embeddings, at least one.
        kind: One of `INDEXES`.

    Raises:
        UserError: The store is too small for this kind of index.
    """
    faiss = import_faiss()
    versions = [shard.version for shard in store.shards]
    before = _describe(store)
    if before is not None and before.kind == kind and before.shards == versions and (store.path / INDEX_FILE).exists():
        return
    try:
        factory, parameters = choose_index(kind, len(store), store.description.dim)
    except ValueError as error:
        raise UserError(f"--index {kind}: {error}") from error
    trained_on, present = len(store), 0
    if (
        before is not None
        and before.kind == kind
        and before.shards == versions[: len(before.shards)]
        and (kind != "ivfpq" or len(store) < _GROWTH * before.trained_on)
    ):
        index = _load(store)
        trained_on, parameters, present = before.trained_on, before.parameters, len(before.shards)
    else:
        index = trained_index(factory, store.description.dim, lambda: _training_vectors(store))
    for shard in store.shards[present:]:
        index.add(store.vectors(shard))
    # The description last: if it is missing, or names other files, the index is not used.
    (store.path / DESCRIPTION_FILE).unlink(missing_ok=True)
    with atomic_path(store.path / INDEX_FILE) as temporary:
        faiss.write_index(index, str(temporary))
    content = {"kind": kind, "parameters": parameters, "trained_on": trained_on, "shards": versions}
    write_text(store.path / DESCRIPTION_FILE, json.dumps(content) + "\n")


def _training_vectors(store: EmbeddingStore) -> NDArray[np.float32]:
    step = training_step(len(store), store.description.dim)
    return np.concatenate([store.vectors(shard)[-shard.start % step :: step] for shard in store.shards])


def _describe(store: EmbeddingStore) -> Description | None:
    path = store.path / DESCRIPTION_FILE
    if not path.exists():
        return None
    try:
        return Description.model_validate(strict_json.read(path))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}; remove it, and repeat `benchmark embed`") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a description of an index: {error}; remove it") from error


def _load(store: EmbeddingStore) -> Any:
    path = store.path / INDEX_FILE
    try:
        return import_faiss().read_index(str(path))
    except RuntimeError as error:
        raise UserError(f"{path} is missing or damaged: remove it, and repeat `benchmark embed`") from error
