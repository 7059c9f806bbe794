"""Exact retrieval evaluation: ranking, metrics, query expansion and re-ranking. Needs only torch, NumPy and SciPy.

Score embeddings::

    from benchmark.retrieval import Embeddings, Protocol, evaluate

    query = Embeddings(query_vectors, query_identities, query_cameras)
    gallery = Embeddings(gallery_vectors, gallery_identities, gallery_cameras)
    scores = evaluate(query, gallery, Protocol(camera_rule=True))
    scores.mAP, scores.recall[1], scores.average_precision

`evaluate_sharded` does the same for lists shared among the processes of torch.distributed, and `evaluate_approximately`
searches a faiss index instead of the whole gallery. `EmbeddingFormat` stores a gallery in fewer bytes.

All names are imported on first use, so that the `Protocol` of a dataset does not import torch.
"""

from typing import TYPE_CHECKING, Any

from benchmark.utils.lazy import import_name

if TYPE_CHECKING:
    from benchmark.retrieval._evaluate import evaluate as evaluate
    from benchmark.retrieval._evaluate import evaluate_sharded as evaluate_sharded
    from benchmark.retrieval._matching import Matches as Matches
    from benchmark.retrieval._matching import Matching as Matching
    from benchmark.retrieval._ranking import Ranking as Ranking
    from benchmark.retrieval._ranking import average_precision as average_precision
    from benchmark.retrieval._ranking import average_precision_at_r as average_precision_at_r
    from benchmark.retrieval._ranking import first_match_rank as first_match_rank
    from benchmark.retrieval._ranking import inverse_negative_penalty as inverse_negative_penalty
    from benchmark.retrieval._ranking import precision_at as precision_at
    from benchmark.retrieval._ranking import r_precision as r_precision
    from benchmark.retrieval._tracks import Tracks as Tracks
    from benchmark.retrieval.approximate import ApproximateScores as ApproximateScores
    from benchmark.retrieval.approximate import evaluate_approximately as evaluate_approximately
    from benchmark.retrieval.clustering import ClusteringScores as ClusteringScores
    from benchmark.retrieval.clustering import clustering_scores as clustering_scores
    from benchmark.retrieval.embedding_format import EmbeddingFormat as EmbeddingFormat
    from benchmark.retrieval.embeddings import Embeddings as Embeddings
    from benchmark.retrieval.protocol import Protocol as Protocol
    from benchmark.retrieval.reranking import KReciprocal as KReciprocal
    from benchmark.retrieval.reranking import QueryExpansion as QueryExpansion
    from benchmark.retrieval.scores import Neighbors as Neighbors
    from benchmark.retrieval.scores import Scores as Scores

_MODULES = {
    "ApproximateScores": "approximate",
    "ClusteringScores": "clustering",
    "EmbeddingFormat": "embedding_format",
    "Embeddings": "embeddings",
    "KReciprocal": "reranking",
    "Matches": "_matching",
    "Matching": "_matching",
    "Neighbors": "scores",
    "Protocol": "protocol",
    "QueryExpansion": "reranking",
    "Ranking": "_ranking",
    "Scores": "scores",
    "Tracks": "_tracks",
    "average_precision": "_ranking",
    "average_precision_at_r": "_ranking",
    "clustering_scores": "clustering",
    "evaluate": "_evaluate",
    "evaluate_approximately": "approximate",
    "evaluate_sharded": "_evaluate",
    "first_match_rank": "_ranking",
    "inverse_negative_penalty": "_ranking",
    "precision_at": "_ranking",
    "r_precision": "_ranking",
}
"""Public names, and the modules within this package that define them."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    return import_name(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return __all__
