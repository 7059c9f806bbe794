"""Exact retrieval evaluation: ranking, metrics, re-ranking. Plain torch; usable alone.

from benchmark.retrieval import Embeddings, Protocol, evaluate

scores = evaluate(Embeddings(vectors, identities, cameras), Embeddings(...), Protocol(camera_rule=True))
scores.mAP, scores.recall[1], scores.average_precision
"""

from benchmark.retrieval._matching import Matches, Matching, Neighbours
from benchmark.retrieval._ranking import (
    Ranking,
    average_precision,
    average_precision_at_r,
    first_match_rank,
    inverse_negative_penalty,
    precision_at,
    r_precision,
)
from benchmark.retrieval.approximate import ApproximateScores, evaluate_approximately
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.evaluate import evaluate, evaluate_sharded
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.reranking import KReciprocal, QueryExpansion
from benchmark.retrieval.scores import Scores

__all__ = [
    "ApproximateScores",
    "Embeddings",
    "KReciprocal",
    "Matches",
    "Matching",
    "Neighbours",
    "Protocol",
    "QueryExpansion",
    "Ranking",
    "Scores",
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
