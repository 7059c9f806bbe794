"""Exact retrieval evaluation: ranking, metrics, re-ranking. Plain torch; usable alone.

from benchmark.retrieval import Embeddings, Protocol, evaluate

scores = evaluate(Embeddings(vectors, identities, cameras), Embeddings(...), Protocol(camera_rule=True))
scores.mAP, scores.recall[1], scores.average_precision
"""

from benchmark.retrieval.approximate import evaluate_approximately
from benchmark.retrieval.approximate_scores import ApproximateScores
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.evaluate import evaluate
from benchmark.retrieval.k_reciprocal import KReciprocal
from benchmark.retrieval.matches import Matches
from benchmark.retrieval.matching import Matching
from benchmark.retrieval.metrics import (
    average_precision,
    average_precision_at_r,
    first_hit,
    inverse_negative_penalty,
    precision_at,
    r_precision,
)
from benchmark.retrieval.neighbours import Neighbours
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.query_expansion import QueryExpansion
from benchmark.retrieval.ranking import Ranking
from benchmark.retrieval.scores import Scores
from benchmark.retrieval.sharded import evaluate_sharded

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
    "first_hit",
    "inverse_negative_penalty",
    "precision_at",
    "r_precision",
]
