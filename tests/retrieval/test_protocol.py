"""Validation of evaluation settings."""

import numpy as np
import pytest

from benchmark.retrieval import KReciprocal, Protocol


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ties": "optimstic"}, "ties must be pessimistic or optimistic, not 'optimstic'"),
        ({"average_precision": "11 points"}, "average_precision must be rectangular or trapezoid, not '11 points'"),
        ({"junk": -1}, "junk must be a tuple of integers, not -1"),
        ({"distractors": ("0",)}, "distractors must be a tuple of integers"),
        ({"recall_at": 5}, "recall_at must be a tuple of integers, not 5"),
        ({"recall_at": ()}, "recall_at must contain at least one K"),
        ({"recall_at": (0, 1)}, "recall_at must contain at least one K, all of them at least 1"),
        ({"query_in_gallery": True, "tracks": True}, "tracks and query_in_gallery exclude each other"),
        ({"query_in_gallery": True, "reranking": KReciprocal()}, "reranking and query_in_gallery exclude each other"),
    ],
)
def test_invalid_settings(settings, message: str):
    with pytest.raises(ValueError, match=message):
        Protocol(**settings)


def test_lists_and_numpy_integers():
    assert Protocol(junk=[-1], recall_at=list(np.arange(1, 3))) == Protocol(junk=(-1,), recall_at=(1, 2))
