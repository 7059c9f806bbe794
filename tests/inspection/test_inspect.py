"""Which queries are chosen, and what is said of them."""

import math
from dataclasses import replace

import pytest
import torch

from benchmark.errors import UserError
from benchmark.inspection import Comparison, inspect
from benchmark.retrieval import Embeddings, Protocol, evaluate


def test_worst_come_in_ascending_order_without_the_skipped(samples, compared):
    query, _ = samples
    assert [worst.sample for worst in compared.worst] == [query[1], query[0], query[3]]  # of equals, the first
    assert [worst.student.average_precision for worst in compared.worst] == [0.1, 0.5, 0.5]
    assert [worst.teacher.average_precision for worst in compared.worst] == [0.05, 0.75, 0.5]
    assert (compared.queries, compared.skipped) == (4, 1)


def test_lost_are_those_below_the_teacher(samples, compared):
    query, _ = samples
    assert [lost.sample for lost in compared.lost] == [query[0]]
    assert compared.lost[0].difference == pytest.approx(-0.25)
    assert compared.comparison == Comparison(better=1, equal=1, worse=1)


def test_largest_loss_comes_first(samples, student, teacher):
    better = replace(teacher, average_precision=torch.tensor([0.75, 0.9, math.nan, 0.6], dtype=torch.float64))
    query, _ = samples
    assert [lost.sample for lost in inspect(*samples, student, better, 2).lost] == [query[1], query[0]]


def test_at_most_so_many(samples, student, teacher):
    query, _ = samples
    assert [worst.sample for worst in inspect(*samples, student, teacher, 1).worst] == [query[1]]


def test_ranks_do_not_count_the_ignored(samples, compared):
    _, gallery = samples
    student, teacher = compared.worst[1].student, compared.worst[1].teacher
    assert [entry.rank for entry in student.entries] == [None, 1, 2]
    assert [entry.relation for entry in student.entries] == [-1, 0, 1]
    assert [entry.sample for entry in student.entries] == [gallery[0], gallery[1], gallery[2]]
    assert [entry.similarity for entry in student.entries] == pytest.approx([0.9, 0.5, 0.1])
    assert [entry.rank for entry in teacher.entries] == [1, None, 2]
    assert (student.first_match_rank, compared.worst[1].positives) == (4, 2)


def test_summaries(compared):
    assert compared.student.mAP == pytest.approx(1.1 / 3)
    assert compared.student.recall == {1: 0.0, 5: 1.0}
    assert compared.student.histogram == (0, 1, 0, 0, 0, 2, 0, 0, 0, 0)
    assert compared.teacher.histogram == (1, 0, 0, 0, 0, 1, 0, 1, 0, 0)


def test_perfect_queries_are_in_the_last_bin(samples, student):
    perfect = replace(student, average_precision=torch.tensor([1.0, 0.9, math.nan, 0.0], dtype=torch.float64))
    assert inspect(*samples, perfect, None, 1).student.histogram == (1, 0, 0, 0, 0, 0, 0, 0, 0, 2)


def test_without_a_teacher(alone):
    assert alone.teacher is alone.comparison is None
    assert alone.lost == ()
    assert len(alone.worst) == 3
    assert all(worst.teacher is worst.difference is None for worst in alone.worst)


def test_of_an_evaluation(samples):
    """The entries agree with a real evaluation's first hits."""
    query, gallery = samples
    generator = torch.Generator().manual_seed(0)

    def embedded(part):
        labels = (torch.tensor([getattr(sample, name) for sample in part]) for name in ("identity", "camera"))
        return Embeddings(torch.randn(len(part), 4, generator=generator), *labels)

    scores = evaluate(embedded(query), embedded(gallery), Protocol(), keep=6)
    for worst in inspect(query, gallery, scores, None, 4).worst:
        correct = [entry for entry in worst.student.entries if entry.relation == 1]
        assert correct[0].rank == worst.student.first_match_rank
        assert len(correct) == worst.positives
        assert {entry.sample.identity for entry in correct} == {worst.sample.identity}


@pytest.mark.parametrize("worst", [0, -1])
def test_at_least_one_query(samples, student, worst):
    with pytest.raises(UserError, match=f"at least 1 query is inspected, not {worst}"):
        inspect(*samples, student, None, worst)


def test_scores_without_neighbours(samples, student, teacher):
    with pytest.raises(ValueError, match="the teacher's scores have no neighbours"):
        inspect(*samples, student, replace(teacher, neighbours=None), 1)


def test_lists_that_do_not_fit(samples, student):
    query, gallery = samples
    with pytest.raises(ValueError, match="scores of 4 queries, not of 3"):
        inspect(query[:3], gallery, student, None, 1)
    with pytest.raises(ValueError, match="entry 5 of a gallery of 5"):
        inspect(query, gallery[:5], student, None, 1)


def test_scores_of_different_lists(samples, student, teacher):
    other = replace(teacher, positives=teacher.positives + (teacher.positives > 0))
    with pytest.raises(ValueError, match="not scored on the same queries"):
        inspect(*samples, student, other, 1)
