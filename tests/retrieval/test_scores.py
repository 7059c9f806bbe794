"""Means of scores, and validation of results."""

from dataclasses import replace

import pytest
import torch

from benchmark.retrieval import Neighbors, Scores

HALF = torch.tensor([0.5, torch.nan]).double()
SCORES = Scores(
    recall_at=(1, 2),
    positives=torch.tensor([2, 0]),
    first_match_rank=torch.tensor([2, 0]),
    average_precision=HALF,
    inverse_negative_penalty=HALF,
    r_precision=HALF,
    average_precision_at_r=HALF,
    precision_at=torch.stack([HALF - 0.5, HALF], dim=1),
)
NEIGHBORS = Neighbors(
    torch.tensor([[3, 1], [0, 2]]),
    torch.tensor([[0.9, 0.5], [0.4, 0.4]]),
    torch.tensor([[0, 1], [-1, 0]]).to(torch.int8),
)
FIRST_QUERY = Neighbors(NEIGHBORS.gallery_index[:1], NEIGHBORS.similarity[:1], NEIGHBORS.relevance[:1])


def test_means_are_over_valid_queries():
    assert (SCORES.queries, SCORES.skipped, SCORES.valid.tolist()) == (2, 1, [True, False])
    assert SCORES.mAP == SCORES.mINP == SCORES.mAP_at_R == SCORES.R_precision == 0.5
    assert SCORES.recall == {1: 0.0, 2: 1.0} and SCORES.precision == {1: 0.0, 2: 0.5}
    assert [SCORES.cmc(k) for k in (1, 2, 3)] == [0, 1, 1]


def test_printed_form_is_one_line():
    assert repr(SCORES).startswith(f"Scores(mAP={SCORES.mAP:.4f}, R@")
    assert repr(SCORES).endswith(f"queries=2, skipped={SCORES.skipped})")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_match_rank": torch.tensor([2, 1])}, "first_match_rank must be 0 for queries without correct matches"),
        ({"first_match_rank": torch.tensor([0, 0])}, "first_match_rank must be 0 for queries without correct matches"),
        ({"r_precision": HALF[:1]}, r"r_precision must be \(2,\) on the CPU, not \(1,\)"),
        ({"precision_at": HALF}, r"precision_at must be \(2, 2\) on the CPU, not \(2,\)"),
        ({"average_precision": 3 * HALF}, "average_precision must be between 0 and 1"),
        ({"average_precision": HALF.flip(0)}, "average_precision must be between 0 and 1"),
        ({"positives": torch.zeros(2).long()}, "none of 2 queries has a correct match"),
        ({"positives": torch.tensor([-1, -1])}, "none of 2 queries has a correct match"),
        ({"neighbors": FIRST_QUERY}, "neighbors has 1 rows, but there are 2 queries"),
    ],
)
def test_rejects_inconsistent_scores(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(SCORES, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery_index": NEIGHBORS.gallery_index[:1]}, r"must all be \(Q, K\)"),
        ({"similarity": NEIGHBORS.similarity.flip(1)}, "similarity must descend"),
        ({"relevance": NEIGHBORS.relevance * 2}, "relevance must be -1, 0 or 1"),
    ],
)
def test_rejects_inconsistent_neighbors(change: dict, message: str):
    assert len(replace(SCORES, neighbors=NEIGHBORS).neighbors) == 2
    with pytest.raises(ValueError, match=message):
        replace(NEIGHBORS, **change)
