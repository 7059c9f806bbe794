"""Exact retrieval evaluation: ranking, metrics, query expansion and re-ranking. Needs only torch, NumPy and SciPy.

Score embeddings::

    from benchmark.retrieval import Embeddings, Protocol, evaluate

    query = Embeddings(query_vectors, query_identities, query_cameras)
    gallery = Embeddings(gallery_vectors, gallery_identities, gallery_cameras)
    scores = evaluate(query, gallery, Protocol(camera_rule=True))
    scores.mAP, scores.recall[1], scores.average_precision

`evaluate_sharded` does the same for lists shared among the processes of torch.distributed, and `evaluate_approximately`
searches a faiss index instead of the whole gallery.
"""

from benchmark.retrieval._matching import Matches, Matching
from benchmark.retrieval._ranking import (
    Ranking,
    average_precision,
    average_precision_at_r,
    first_match_rank,
    inverse_negative_penalty,
    precision_at,
    r_precision,
)
from benchmark.retrieval._tracks import Tracks
from benchmark.retrieval.approximate import ApproximateScores, evaluate_approximately
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.evaluate import evaluate, evaluate_sharded
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.reranking import KReciprocal, QueryExpansion
from benchmark.retrieval.scores import Neighbors, Scores

__all__ = [
    "ApproximateScores",
    "Embeddings",
    "KReciprocal",
    "Matches",
    "Matching",
    "Neighbors",
    "Protocol",
    "QueryExpansion",
    "Ranking",
    "Scores",
    "Tracks",
    "average_precision",
    "average_precision_at_r",
    "evaluate",
    "evaluate_approximately",
    "evaluate_sharded",
    "first_match_rank",
    "inverse_negative_penalty",
    "precision_at",
    "r_precision",
]
