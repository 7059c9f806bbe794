"""Exact retrieval evaluation: ranking and metrics. Plain torch; usable alone."""

from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.evaluate import evaluate
from benchmark.retrieval.matches import Matches
from benchmark.retrieval.matching import Matching
from benchmark.retrieval.metrics import average_precision, first_hit, inverse_negative_penalty
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.ranking import Ranking
from benchmark.retrieval.scores import Scores

__all__ = [
    "Embeddings",
    "Matches",
    "Matching",
    "Protocol",
    "Ranking",
    "Scores",
    "average_precision",
    "evaluate",
    "first_hit",
    "inverse_negative_penalty",
]
